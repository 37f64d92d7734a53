//! Events out of order, as every backlog and every import has them: how many a
//! second, in one dialog of 10,000 members, and how long a message of another
//! dialog waits meanwhile.

use std::time::{Duration, Instant};

use chat_counters::config::Config;
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;

use super::load::{self, Load};
use super::process::{Result, Service, config};
use super::{floors, publish, seed, service};

/// Members of the dialog.
const MEMBERS: usize = 10_000;
/// Messages in it before anything comes out of order.
const MESSAGES: usize = 1_000;
/// Events of each kind.
const EVENTS: usize = 5_000;
/// Events of a kind that each touch thousands of members.
const FAR_REACHING: usize = 500;
/// Events that are behind while single messages of other dialogs come: as many
/// as the service takes in at once.
const BACKLOG: usize = 1_500;
/// The other dialogs, each with a message in turn.
const OTHERS: std::ops::Range<usize> = 1..8;
/// Single messages of other dialogs, and the time between two of them.
const PROBES: usize = 50;
const BETWEEN: Duration = Duration::from_millis(10);

/// Events that are alike, and how fast they went.
#[derive(Debug, Clone)]
pub(crate) struct OutOfOrder {
    pub what: &'static str,
    pub events_per_second: f64,
    /// The longest that a message of another dialog took, from its publish to
    /// the answer that counts it, in milliseconds.
    pub longest_wait_ms: f64,
}

/// A kind of events, by their number.
struct Kind {
    what: &'static str,
    event: fn(usize) -> Load,
    events: usize,
}

/// In this order: bulk reads let members' marks be past messages, which is what
/// makes deletes and late messages touch them.
const KINDS: [Kind; 4] = [
    Kind {
        what: "bulk reads before the end",
        event: |number| {
            load::bulk_read_until(number, 0, number % MEMBERS, MESSAGES / 2 + number / MEMBERS)
        },
        events: EVENTS,
    },
    Kind {
        what: "joins into the past",
        event: |number| load::join_since(number, 0, MEMBERS + number, MESSAGES / 4),
        events: EVENTS,
    },
    Kind {
        what: "late messages",
        event: |number| load::late_message(number, 0, number % MEMBERS, MESSAGES / 8),
        events: FAR_REACHING,
    },
    Kind {
        what: "deletes",
        event: |number| load::delete(number, 0, number % (MESSAGES / 2)),
        events: FAR_REACHING,
    },
];

/// Measures each kind: first all of its events from the queue, then some of
/// them with others beside.
pub(crate) async fn measure() -> Result<Vec<OutOfOrder>> {
    let config = config("past");
    seed::dialogs(&config, OTHERS.end, MEMBERS).await?;
    let first = Service::start(service::binary(), &config).await?;
    let messages = (0..MESSAGES).map(|index| load::message(index, 0, index % MEMBERS));
    publish(&config, &messages.collect::<Vec<_>>()).await?;
    first.has_settled(MESSAGES as u64).await?;
    first.stop().await?;

    let mut measured = Vec::new();
    // Numbers that no other event has.
    let mut next = MESSAGES;
    for kind in &KINDS {
        let mut events = |count: usize| {
            let numbers = next..next + count;
            next += count;
            numbers.map(kind.event).collect::<Vec<_>>()
        };
        let all = events(kind.events);
        let beside = events(BACKLOG.min(kind.events));
        let probes = next..next + PROBES;
        next += PROBES;

        publish(&config, &all).await?;
        let service = Service::spawn(service::binary(), &config).await?;
        let rate = service::drained(&service, all.len()).await?;
        let longest_wait = waits(&config, &service, &beside, probes).await?;
        service.stop().await?;
        let found = OutOfOrder {
            what: kind.what,
            events_per_second: rate.events_per_second,
            longest_wait_ms: longest_wait.as_secs_f64() * 1_000.0,
        };
        println!(
            "{:<28} {:>10.0} events/s  another dialog's message waits {:.0} ms at most",
            found.what, found.events_per_second, found.longest_wait_ms
        );
        measured.push(found);
    }
    floors::remove(&config).await?;
    Ok(measured)
}

/// Publishes a backlog, and messages of other dialogs behind it; the longest
/// that one of them takes.
async fn waits(
    config: &Config,
    service: &Service,
    backlog: &[Load],
    probes: std::ops::Range<usize>,
) -> Result<Duration> {
    publish(config, backlog).await?;
    let client = CounterServiceClient::connect(format!("http://{}", service.grpc)).await?;
    let mut waiting = tokio::task::JoinSet::new();
    for (probe, other) in probes.zip(OTHERS.cycle()) {
        let message = load::message(probe, other, probe % MEMBERS);
        let started = Instant::now();
        publish(config, std::slice::from_ref(&message)).await?;
        let mut client = client.clone();
        waiting.spawn(async move {
            let request = v1::GetDialogStatsRequest {
                tenant_id: load::TENANT.into(),
                dialog_id: load::dialog(other),
                after_event_id: load::event_id(probe),
                ..Default::default()
            };
            client.get_dialog_stats(request).await?;
            Ok::<_, tonic::Status>(started.elapsed())
        });
        tokio::time::sleep(BETWEEN).await;
    }
    let mut longest = Duration::ZERO;
    while let Some(waited) = waiting.join_next().await {
        longest = longest.max(waited??);
    }
    Ok(longest)
}
