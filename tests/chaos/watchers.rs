//! Watching all users from every replica, through everything that happens: no
//! version goes down, totals are the sums of their parts, and in the end each
//! watcher knows how everybody stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::kit::model::Model;
use crate::kit::scenario::{TENANTS, USERS};
use crate::kit::service::until_for;
use crate::kit::watcher::Watcher;

const CONNECTING: Duration = Duration::from_secs(2);
/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(20);
/// A stream of which nothing comes for so long is opened anew: heartbeats do.
const SILENT: Duration = Duration::from_secs(20);
/// Faults that are told.
const MOST_TOLD: usize = 20;

/// Watchers, until this is dropped.
pub(crate) struct Watchers {
    known: Vec<(String, Arc<Mutex<Known>>)>,
    _tasks: JoinSet<()>,
}

/// What one watcher was told.
#[derive(Default)]
struct Known {
    users: BTreeMap<String, v1::UserStats>,
    updates: u64,
    faults: Vec<String>,
}

/// What the watchers have found.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Updates.
    pub updates: u64,
    /// What is wrong.
    pub faults: Vec<String>,
}

impl Watchers {
    /// Watches every tenant from all replicas, whichever processes they are.
    pub(crate) fn begin(urls: Vec<watch::Receiver<String>>) -> Self {
        let (mut known, mut tasks) = (Vec::new(), JoinSet::new());
        for (replica, url) in urls.into_iter().enumerate() {
            for tenant in TENANTS {
                let of_one = Arc::<Mutex<Known>>::default();
                known.push((format!("replica {replica}, {tenant}"), Arc::clone(&of_one)));
                tasks.spawn(keep_watching(url.clone(), tenant, of_one));
            }
        }
        Self {
            known,
            _tasks: tasks,
        }
    }

    /// Waits until all of them know what the model says, and tells what is wrong.
    pub(crate) async fn end(self, model: &Model, patience: Duration) -> Watched {
        let all_known = until_for(patience, "watchers that know all", || async {
            self.unknown(model).is_empty().then_some(())
        });
        let _ = all_known.await;
        let mut watched = Watched {
            faults: self.unknown(model),
            ..Watched::default()
        };
        for (name, known) in &self.known {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            watched.updates += known.updates;
            let faults = known.faults.iter();
            watched
                .faults
                .extend(faults.map(|fault| format!("watching {name}: {fault}")));
        }
        watched
    }

    /// What they do not know.
    fn unknown(&self, model: &Model) -> Vec<String> {
        let mut unknown = Vec::new();
        for (index, (name, known)) in self.known.iter().enumerate() {
            let tenant = TENANTS[index % TENANTS.len()];
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            for user in USERS.map(|user| user.trim().to_lowercase()) {
                let expected = model.user(tenant, &user);
                let found = known.users.get(&user).cloned().unwrap_or_default();
                let is_known = expected.dialog_count == found.dialog_count
                    && expected.unread_dialogs_count == found.unread_dialogs_count
                    && expected.total_unread_count == found.total_unread_count
                    && expected.total_messages_count == found.total_messages_count
                    && expected.unread_by_sender_type == found.unread_by_sender_type;
                if !is_known {
                    unknown.push(format!(
                        "watching {name}: {user} is {expected:?}, told was {found:?}"
                    ));
                }
            }
        }
        unknown
    }
}

async fn keep_watching(
    mut url: watch::Receiver<String>,
    tenant: &'static str,
    known: Arc<Mutex<Known>>,
) {
    let mut resume_token = String::new();
    loop {
        let now = url.borrow_and_update().clone();
        let watched = watch_once(now, tenant, &mut resume_token, &known);
        let ended = tokio::select! {
            ended = watched => ended,
            changed = url.changed() => match changed {
                Ok(()) => continue,
                Err(_gone) => return,
            },
        };
        // That streams end is what faults do; what they tell is not.
        if ended.code() == Code::DataLoss {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.faults.len() < MOST_TOLD {
                known.faults.push(ended.message().to_owned());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Watches until the stream ends.
async fn watch_once(
    url: String,
    tenant: &str,
    resume_token: &mut String,
    known: &Mutex<Known>,
) -> Status {
    let Ok(endpoint) = Endpoint::from_shared(url) else {
        return Status::unavailable("no address");
    };
    let connected = endpoint.connect_timeout(CONNECTING).connect().await;
    let channel = match connected {
        Ok(channel) => channel,
        Err(error) => return Status::unavailable(error.to_string()),
    };
    let request = v1::WatchUserStatsRequest {
        tenant_id: tenant.to_owned(),
        user_ids: USERS.map(String::from).into(),
        min_interval_ms: 10,
        resume_token: resume_token.clone(),
    };
    let mut watcher = match Watcher::open(CounterServiceClient::new(channel), request).await {
        Ok(watcher) => watcher,
        Err(refused) => return refused,
    };
    {
        // Versions do not go down from one stream to the next either.
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.users.clone_from(&known.users);
    }
    loop {
        let told = tokio::time::timeout(SILENT, watcher.next()).await;
        let updates = match told {
            Ok(Ok(told)) => told.updates.len(),
            Ok(Err(ended)) => return ended,
            Err(_elapsed) => return Status::unavailable("nothing comes"),
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.updates += updates as u64;
        known.users.clone_from(&watcher.users);
        resume_token.clone_from(&watcher.resume_token);
    }
}
