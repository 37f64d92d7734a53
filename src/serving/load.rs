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
use super::model::{Ended, Load, Loaded, Wanted};
use crate::event::{DialogId, TenantId, UserId};
use crate::shutdown::Shutdown;
use crate::store::commit_log::Cut;
use crate::store::read::{ReadError, Shares};

/// Processors for each load that is under way: a load keeps about one busy, here
/// or where the store is.
const PROCESSORS_A_LOAD: usize = 2;
/// Users, or dialogs, from which on a load takes no further wish. The last wish is
/// taken whole, so a load may have more. Those who come meanwhile wait for the
/// next.
const MOST_WANTED: usize = 16;
/// Bytes of the bound of memory for each document that a load may read: a
/// document takes some 650 bytes until it is put in, and a user of a million
/// dialogs is not to be read in vain.
const BYTES_A_DOCUMENT: usize = 4_000;
/// A load that takes longer is given up, and those who wait ask the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// All of it is in memory, or was overtaken and is to be wished for again.
    LookAgain,
    /// These are not in memory: they were not read, or there is no room for them.
    Without(Wanted),
    /// It could not be read or put in, or is too much for one load. Some of it may
    /// be in memory.
    Failed,
}

impl Outcome {
    /// What it is for somebody who wished for these.
    fn of(&self, wanted: &Wanted) -> Fulfilled {
        match self {
            Outcome::LookAgain => Fulfilled::Perhaps,
            Outcome::Without(missing) => {
                let mut users = wanted.users.iter();
                let mut dialogs = wanted.dialogs.iter();
                let is_missing = users.any(|user| missing.users.contains(user))
                    || dialogs.any(|dialog| missing.dialogs.contains(dialog));
                match is_missing {
                    true => Fulfilled::NoRoom,
                    false => Fulfilled::Perhaps,
                }
            }
            Outcome::Failed => Fulfilled::Failed,
        }
    }
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fulfilled {
    /// What was wished for may be in memory.
    Perhaps,
    /// There is no room for some of it.
    NoRoom,
    /// It could not be read or put in, or not in time, or is too much for one load.
    Failed,
}

/// What a read needs that is not in memory.
#[derive(Debug)]
pub(super) struct Wish {
    tenant: TenantId,
    wanted: Wanted,
    deadline: Instant,
    ended: oneshot::Sender<Fulfilled>,
}

impl Wish {
    pub(super) fn new(
        tenant: TenantId,
        wanted: Wanted,
        deadline: Instant,
    ) -> (Self, oneshot::Receiver<Fulfilled>) {
        let (ended, waiting) = oneshot::channel();
        let wish = Self {
            tenant,
            wanted,
            deadline,
            ended,
        };
        (wish, waiting)
    }

    fn end(self, outcome: &Outcome) {
        // Who is gone does not mind.
        let _ = self.ended.send(outcome.of(&self.wanted));
    }

    fn is_void(&self) -> bool {
        self.ended.is_closed() || self.deadline <= Instant::now()
    }
}

/// Loads what is wished for.
#[derive(Debug)]
pub(super) struct Loads {
    serving: Serving,
    most_documents: usize,
    places: Arc<Semaphore>,
}

/// Wishes that one load fulfils.
#[derive(Debug, Default)]
struct Batch {
    users: HashSet<UserId>,
    dialogs: HashSet<DialogId>,
    wishes: Vec<Wish>,
}

impl Batch {
    fn add(&mut self, wish: Wish) {
        self.users.extend(wish.wanted.users.iter().cloned());
        self.dialogs.extend(wish.wanted.dialogs.iter().cloned());
        self.wishes.push(wish);
    }

    fn is_full(&self) -> bool {
        self.users.len().max(self.dialogs.len()) >= MOST_WANTED
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            users: self.users.iter().cloned().collect(),
            dialogs: self.dialogs.iter().cloned().collect(),
        }
    }

    fn end(self, outcome: &Outcome) {
        self.wishes.into_iter().for_each(|wish| wish.end(outcome));
    }
}

fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / PROCESSORS_A_LOAD).max(1)
}

impl Loads {
    pub(super) fn new(serving: Serving, most_bytes: usize) -> Self {
        Self {
            serving,
            most_documents: most_bytes / BYTES_A_DOCUMENT,
            places: Arc::new(Semaphore::new(at_once())),
        }
    }

    /// Goes on until the shutdown.
    pub(super) async fn run(self, mut wishes: mpsc::Receiver<Wish>, shutdown: Shutdown) {
        loop {
            let first = tokio::select! {
                wish = wishes.recv() => wish,
                () = shutdown.requested() => None,
            };
            let Some(first) = first else {
                return;
            };
            // What comes while all places are taken is loaded with it.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let more = std::iter::from_fn(|| wishes.try_recv().ok());
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

/// By tenant; none takes a further wish once it is full.
fn batches(wishes: impl Iterator<Item = Wish>) -> Vec<(TenantId, Batch)> {
    let mut open: HashMap<TenantId, Batch> = HashMap::new();
    let mut full = Vec::new();
    for wish in wishes.filter(|wish| !wish.is_void()) {
        let tenant = wish.tenant.clone();
        let batch = open.entry(tenant.clone()).or_default();
        batch.add(wish);
        if batch.is_full() {
            full.push((tenant, std::mem::take(batch)));
        }
    }
    let rest = open
        .into_iter()
        .filter(|(_, batch)| !batch.wishes.is_empty());
    full.into_iter().chain(rest).collect()
}

/// Loads a batch; one by one where it is too much at once.
async fn load(serving: &Serving, tenant: &TenantId, batch: Batch, most: usize) {
    match once(serving, tenant, batch.wanted(), most).await {
        Some(outcome) => batch.end(&outcome),
        None if batch.wishes.len() == 1 => batch.end(&Outcome::Failed),
        None => {
            for wish in batch.wishes {
                if wish.is_void() {
                    continue;
                }
                let outcome = once(serving, tenant, wish.wanted.clone(), most).await;
                wish.end(&outcome.unwrap_or(Outcome::Failed));
            }
        }
    }
}

/// `None` when it is too much.
async fn once(
    serving: &Serving,
    tenant: &TenantId,
    wanted: Wanted,
    most: usize,
) -> Option<Outcome> {
    let shared = &serving.shared;
    let loads = begin(serving, tenant, wanted.clone());
    let deadline = Instant::now() + PATIENCE;
    let Wanted { users, dialogs } = &wanted;
    let going_on = || {
        shared.loads_went_on.fetch_add(1, Ordering::Relaxed);
    };
    let shares = serving
        .reader
        .shares(tenant, users, dialogs, most, (deadline, &going_on));
    let ended = match shares.await {
        Ok(Some(shares)) => {
            let outcome = put_in(serving, loads, shares).await;
            if let Outcome::Without(missing) = &outcome {
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
            Outcome::Failed
        }
    };
    Some(ended)
}

/// Begins a load for each part, all of which are read together: memory is not
/// kept from others for as long as it takes to put all of them in.
fn begin(serving: &Serving, tenant: &TenantId, wanted: Wanted) -> Vec<(Wanted, Load)> {
    let shared = &serving.shared;
    let mut memory = shared.memory();
    // From before the read on, so that nothing that is committed meanwhile is
    // missed.
    shared.feed.follow(true);
    let mut begin = |part: Wanted| (part.clone(), memory.model.begin_load(tenant, part));
    wanted.apart().into_iter().map(&mut begin).collect()
}

fn abandon(serving: &Serving, loads: impl IntoIterator<Item = (Wanted, Load)>) {
    let mut memory = serving.shared.memory();
    for (_, load) in loads {
        memory.model.abandon_load(load);
    }
}

/// Puts what was read into the model, once that is as far.
async fn put_in(serving: &Serving, loads: Vec<(Wanted, Load)>, mut shares: Shares) -> Outcome {
    let at = Cut::from(&shares.position);
    let mut loads = loads.into_iter();
    if serving.round().await.is_none() {
        abandon(serving, loads);
        return Outcome::Failed;
    }
    let mut missing = Wanted::default();
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
            // What was overtaken is wished for again by the reads that need it.
            Some(Ended::Held | Ended::Void | Ended::OutOfStep) => {}
            Some(Ended::Without(part)) => missing.join(part),
            None => {
                abandon(serving, loads);
                return Outcome::Failed;
            }
        }
        tokio::task::yield_now().await;
    }
    match missing.is_empty() {
        true => Outcome::LookAgain,
        false => Outcome::Without(missing),
    }
}

/// What was read of a part. Others may have shares of the same dialogs.
fn read_of(part: &Wanted, shares: &mut Shares) -> Loaded {
    let mut users = Vec::with_capacity(part.users.len());
    for user in &part.users {
        let rows = shares.users.remove(user).unwrap_or_default();
        users.push((user.clone(), rows));
    }
    let of_users = users.iter().flat_map(|(_, rows)| rows);
    let dialogs = of_users.map(|row| &row.dialog).chain(&part.dialogs);
    let known = |id: &DialogId| Some((id.clone(), shares.dialogs.get(id)?.clone()));
    Loaded {
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
