//! Reading all the time, from every replica, through everything that happens:
//! no answer is older than one that was given before it was asked for, and none
//! contradicts itself.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::kit::random::Random;
use crate::kit::scenario::{DIALOGS, TENANTS, USERS};

/// Readers of each replica.
const READERS: u64 = 2;
/// A call that takes longer is given up.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between calls, so that there is something else to do on the machine.
const PAUSE: Duration = Duration::from_millis(5);
/// Faults that are told.
const MOST_TOLD: usize = 20;

/// What the readers have found.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Answers.
    pub answers: usize,
    /// What is wrong with some of them.
    pub faults: Vec<String>,
}

/// The latest version that an answer had, by what it was about.
#[derive(Debug, Default)]
struct Seen {
    versions: HashMap<String, i64>,
    read: Read,
}

/// Reads from all replicas, whichever processes they are, until the end.
pub(crate) async fn keep_reading(
    urls: Vec<watch::Receiver<String>>,
    seed: u64,
    end: Instant,
) -> Read {
    let seen = Mutex::new(Seen::default());
    let readers = urls
        .iter()
        .enumerate()
        .flat_map(|(replica, url)| (0..READERS).map(move |number| (replica, url.clone(), number)));
    let readers = readers.map(|(replica, url, number)| {
        let random = Random::new(seed ^ (0x4ead << 8 | (replica as u64) << 4 | number));
        Reader {
            replica,
            url,
            random,
            seen: &seen,
        }
        .keep_reading(end)
    });
    join_all(readers).await;
    seen.into_inner().map(|seen| seen.read).unwrap_or_default()
}

struct Reader<'s> {
    replica: usize,
    url: watch::Receiver<String>,
    random: Random,
    seen: &'s Mutex<Seen>,
}

impl Reader<'_> {
    async fn keep_reading(mut self, end: Instant) {
        while Instant::now() < end {
            let url = self.url.borrow_and_update().clone();
            let Ok(endpoint) = Endpoint::from_shared(url) else {
                return;
            };
            let endpoint = endpoint.connect_timeout(DEADLINE);
            if let Ok(channel) = endpoint.connect().await {
                let mut client = CounterServiceClient::new(channel);
                while Instant::now() < end && self.url.has_changed().is_ok_and(|changed| !changed) {
                    self.read(&mut client).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One call. That it fails is what faults do.
    async fn read(&mut self, client: &mut CounterServiceClient<Channel>) {
        let tenant = (*self.random.pick(&TENANTS)).to_owned();
        match self.random.below(3) {
            0 => {
                let dialog = (*self.random.pick(&DIALOGS)).to_owned();
                let about = format!("dialog {tenant}/{dialog}");
                let floor = self.floor(&about);
                let request = v1::GetDialogStatsRequest {
                    tenant_id: tenant,
                    dialog_id: dialog,
                    ..Default::default()
                };
                let answer = client.get_dialog_stats(timed(request)).await;
                if let Ok(stats) = answer {
                    self.check(&about, floor, stats.into_inner().version, true);
                }
            }
            _ => {
                let user = self.random.pick(&USERS).trim().to_lowercase();
                let about = format!("user {tenant}/{user}");
                let floor = self.floor(&about);
                let request = v1::GetUserStatsRequest {
                    tenant_id: tenant,
                    user_id: user,
                    ..Default::default()
                };
                let answer = client.get_user_stats(timed(request)).await;
                if let Ok(stats) = answer {
                    let stats = stats.into_inner();
                    let parts: i64 = stats.unread_by_sender_type.values().sum();
                    let adds_up = parts == stats.total_unread_count
                        && stats.unread_dialogs_count <= stats.dialog_count;
                    self.check(&about, floor, stats.version, adds_up);
                }
            }
        }
    }

    /// No answer that is asked for from now on may be older than this.
    fn floor(&self, about: &str) -> i64 {
        let seen = self.seen.lock().ok();
        seen.and_then(|seen| seen.versions.get(about).copied())
            .unwrap_or(0)
    }

    fn check(&self, about: &str, floor: i64, version: i64, adds_up: bool) {
        let Ok(mut seen) = self.seen.lock() else {
            return;
        };
        seen.read.answers += 1;
        if seen.read.faults.len() < MOST_TOLD {
            let replica = self.replica;
            if version < floor {
                let fault = format!(
                    "{about}: replica {replica} answered version {version} after {floor} was seen"
                );
                seen.read.faults.push(fault);
            }
            if !adds_up {
                let fault =
                    format!("{about}: replica {replica} gave an answer that does not add up");
                seen.read.faults.push(fault);
            }
        }
        let latest = seen.versions.entry(about.to_owned()).or_default();
        *latest = version.max(*latest);
    }
}

fn timed<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
