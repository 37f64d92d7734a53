//! Reading what is not in memory, for all who wait for it at once: one load has
//! many users, a few run at a time, and reads of what is in memory go on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use super::Serving;
use super::model::{LoadEnd, LoadKeys, LoadTicket, LoadedRows};
use crate::event::{DialogId, TenantId, UserId};
use crate::shutdown::Shutdown;
use crate::store::commit_log::Cut;
use crate::store::read::{ReadError, Shares};

/// The processors for each load that is under way: a load keeps about one busy, here
/// or where the store is.
const PROCESSORS_PER_LOAD: usize = 2;
/// The users, or dialogs, from which on a load takes no further request. The last
/// request is taken whole, so a load may have more. Those who come meanwhile wait for
/// the next.
const MAX_KEYS_PER_LOAD: usize = 16;
/// The bytes of the bound of memory for each document that a load may read: a
/// document takes some 650 bytes until it is put in, and a user of a million
/// dialogs is not to be read in vain.
const BYTES_PER_DOCUMENT: usize = 4_000;
/// A load that takes longer is given up, and those who wait ask the store.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The outcome of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LoadOutcome {
    /// All of it is in memory, or was overtaken and is to be asked for again.
    LookAgain,
    /// These are not in memory: they were not read, or there is no room for them.
    Without(LoadKeys),
    /// It could not be read or put in, or is too much for one load. Some of it may
    /// be in memory.
    Failed,
}

impl LoadOutcome {
    /// The outcome for somebody who asked for these.
    fn of(&self, wanted: &LoadKeys) -> LoadResult {
        match self {
            LoadOutcome::LookAgain => LoadResult::Perhaps,
            LoadOutcome::Without(missing) => {
                let mut users = wanted.users.iter();
                let mut dialogs = wanted.dialogs.iter();
                let is_missing = users.any(|user| missing.users.contains(user))
                    || dialogs.any(|dialog| missing.dialogs.contains(dialog));
                match is_missing {
                    true => LoadResult::NoRoom,
                    false => LoadResult::Perhaps,
                }
            }
            LoadOutcome::Failed => LoadResult::Failed,
        }
    }
}

/// The outcome of a load for one of those who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadResult {
    /// What was asked for may be in memory.
    Perhaps,
    /// There is no room for some of it.
    NoRoom,
    /// It could not be read or put in, or not in time, or is too much for one load.
    Failed,
}

/// A request of a read to load what it needs and is not in memory.
#[derive(Debug)]
pub(super) struct LoadRequest {
    tenant: TenantId,
    wanted: LoadKeys,
    deadline: Instant,
    ended: oneshot::Sender<LoadResult>,
}

impl LoadRequest {
    pub(super) fn new(
        tenant: TenantId,
        wanted: LoadKeys,
        deadline: Instant,
    ) -> (Self, oneshot::Receiver<LoadResult>) {
        let (ended, waiting) = oneshot::channel();
        let request = Self {
            tenant,
            wanted,
            deadline,
            ended,
        };
        (request, waiting)
    }

    fn end(self, outcome: &LoadOutcome) {
        // Who is gone does not mind.
        let _ = self.ended.send(outcome.of(&self.wanted));
    }

    fn is_void(&self) -> bool {
        self.ended.is_closed() || self.deadline <= Instant::now()
    }
}

/// Loads what reads ask for, a few batches at a time.
#[derive(Debug)]
pub(super) struct Loader {
    serving: Serving,
    most_documents: usize,
    places: Arc<Semaphore>,
}

/// The requests that one load answers.
#[derive(Debug, Default)]
struct LoadBatch {
    users: HashSet<UserId>,
    dialogs: HashSet<DialogId>,
    requests: Vec<LoadRequest>,
}

impl LoadBatch {
    fn add(&mut self, request: LoadRequest) {
        self.users.extend(request.wanted.users.iter().cloned());
        self.dialogs.extend(request.wanted.dialogs.iter().cloned());
        self.requests.push(request);
    }

    fn is_full(&self) -> bool {
        self.users.len().max(self.dialogs.len()) >= MAX_KEYS_PER_LOAD
    }

    fn wanted(&self) -> LoadKeys {
        LoadKeys {
            users: self.users.iter().cloned().collect(),
            dialogs: self.dialogs.iter().cloned().collect(),
        }
    }

    fn end(self, outcome: &LoadOutcome) {
        self.requests
            .into_iter()
            .for_each(|request| request.end(outcome));
    }
}

fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / PROCESSORS_PER_LOAD).max(1)
}

impl Loader {
    /// Makes a loader for a model of so many bytes.
    pub(super) fn new(serving: Serving, most_bytes: usize) -> Self {
        Self {
            serving,
            most_documents: most_bytes / BYTES_PER_DOCUMENT,
            places: Arc::new(Semaphore::new(at_once())),
        }
    }

    /// Goes on until the shutdown.
    pub(super) async fn run(self, mut requests: mpsc::Receiver<LoadRequest>, shutdown: Shutdown) {
        loop {
            let first = tokio::select! {
                request = requests.recv() => request,
                () = shutdown.requested() => None,
            };
            let Some(first) = first else {
                return;
            };
            // What comes while all places are taken is loaded with it.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let more = std::iter::from_fn(|| requests.try_recv().ok());
            let mut place = Some(place);
            for (tenant, batch) in batches(std::iter::once(first).chain(more)) {
                let place = match place.take() {
                    Some(place) => place,
                    None => match Arc::clone(&self.places).acquire_owned().await {
                        Ok(place) => place,
                        Err(_closed) => return,
                    },
                };
                let (serving, most) = (self.serving.clone(), self.most_documents);
                tokio::spawn(async move {
                    load(&serving, &tenant, batch, most).await;
                    drop(place);
                });
            }
        }
    }
}

/// Batches by tenant; none takes a further request once it is full.
fn batches(requests: impl Iterator<Item = LoadRequest>) -> Vec<(TenantId, LoadBatch)> {
    let mut open: HashMap<TenantId, LoadBatch> = HashMap::new();
    let mut full = Vec::new();
    for request in requests.filter(|request| !request.is_void()) {
        let tenant = request.tenant.clone();
        let batch = open.entry(tenant.clone()).or_default();
        batch.add(request);
        if batch.is_full() {
            full.push((tenant, std::mem::take(batch)));
        }
    }
    let rest = open
        .into_iter()
        .filter(|(_, batch)| !batch.requests.is_empty());
    full.into_iter().chain(rest).collect()
}

/// Loads a batch; one by one where it is too much at once.
async fn load(serving: &Serving, tenant: &TenantId, batch: LoadBatch, most: usize) {
    match once(serving, tenant, batch.wanted(), most).await {
        Some(outcome) => batch.end(&outcome),
        None if batch.requests.len() == 1 => batch.end(&LoadOutcome::Failed),
        None => {
            for request in batch.requests {
                if request.is_void() {
                    continue;
                }
                let outcome = once(serving, tenant, request.wanted.clone(), most).await;
                request.end(&outcome.unwrap_or(LoadOutcome::Failed));
            }
        }
    }
}

/// `None` when it is too much.
async fn once(
    serving: &Serving,
    tenant: &TenantId,
    wanted: LoadKeys,
    most: usize,
) -> Option<LoadOutcome> {
    let shared = &serving.shared;
    let loads = begin(serving, tenant, wanted.clone());
    let deadline = Instant::now() + LOAD_TIMEOUT;
    let LoadKeys { users, dialogs } = &wanted;
    let going_on = || {
        shared.loads_went_on.fetch_add(1, Ordering::Relaxed);
    };
    let shares = serving
        .reader
        .shares(tenant, users, dialogs, most, (deadline, &going_on));
    let ended = match shares.await {
        Ok(Some(shares)) => {
            let outcome = put_in(serving, loads, shares).await;
            if let LoadOutcome::Without(missing) = &outcome {
                for user in &missing.users {
                    shared.too_large.note(tenant, user);
                }
            }
            outcome
        }
        Ok(None) => {
            abandon(serving, loads);
            if let [user] = &wanted.users[..] {
                shared.too_large.note(tenant, user);
            }
            return None;
        }
        Err(error) => {
            tell(&error);
            abandon(serving, loads);
            LoadOutcome::Failed
        }
    };
    Some(ended)
}

/// Begins a load for each part, all of which are read together: memory is not
/// kept from others for as long as it takes to put all of them in.
fn begin(serving: &Serving, tenant: &TenantId, wanted: LoadKeys) -> Vec<(LoadKeys, LoadTicket)> {
    let shared = &serving.shared;
    let mut memory = shared.memory();
    // From before the read on, so that nothing that is committed meanwhile is
    // missed.
    shared.feed.follow(true);
    let mut begin = |part: LoadKeys| (part.clone(), memory.model.begin_load(tenant, part));
    wanted.apart().into_iter().map(&mut begin).collect()
}

fn abandon(serving: &Serving, loads: impl IntoIterator<Item = (LoadKeys, LoadTicket)>) {
    let mut memory = serving.shared.memory();
    for (_, load) in loads {
        memory.model.abandon_load(load);
    }
}

/// Puts what was read into the model, once that is as far.
async fn put_in(
    serving: &Serving,
    loads: Vec<(LoadKeys, LoadTicket)>,
    mut shares: Shares,
) -> LoadOutcome {
    let at = Cut::from(&shares.position);
    let mut loads = loads.into_iter();
    if serving.round().await.is_none() {
        abandon(serving, loads);
        return LoadOutcome::Failed;
    }
    let mut missing = LoadKeys::default();
    while let Some((part, load)) = loads.next() {
        let loaded = read_of(&part, &mut shares);
        let ended = {
            let mut memory = serving.shared.memory();
            if memory.agrees_with(&shares.position) {
                Some(memory.model.end_load(load, &at, loaded))
            } else {
                memory.model.abandon_load(load);
                None
            }
        };
        match ended {
            // What was overtaken is asked for again by the reads that need it.
            Some(LoadEnd::Complete | LoadEnd::Void | LoadEnd::OutOfStep) => {}
            Some(LoadEnd::Without(part)) => missing.join(part),
            None => {
                abandon(serving, loads);
                return LoadOutcome::Failed;
            }
        }
        tokio::task::yield_now().await;
    }
    match missing.is_empty() {
        true => LoadOutcome::LookAgain,
        false => LoadOutcome::Without(missing),
    }
}

/// What was read of a part. Others may have shares of the same dialogs.
fn read_of(part: &LoadKeys, shares: &mut Shares) -> LoadedRows {
    let mut users = Vec::with_capacity(part.users.len());
    for user in &part.users {
        let rows = shares.users.remove(user).unwrap_or_default();
        users.push((user.clone(), rows));
    }
    let of_users = users.iter().flat_map(|(_, rows)| rows);
    let dialogs = of_users.map(|row| &row.dialog).chain(&part.dialogs);
    let known = |id: &DialogId| Some((id.clone(), shares.dialogs.get(id)?.clone()));
    LoadedRows {
        dialogs: dialogs.filter_map(known).collect(),
        users,
    }
}

fn tell(error: &ReadError) {
    match error {
        ReadError::Driver(_) | ReadError::Malformed { .. } | ReadError::Position(_) => {
            warn!(%error, "users cannot be read into memory; their reads ask the store");
        }
        _ => {}
    }
}
