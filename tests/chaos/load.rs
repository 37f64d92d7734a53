//! Publishing a scenario through everything that happens, until the broker has
//! confirmed all of it.

use std::time::{Duration, Instant};

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config;

use super::inject::Record;
use crate::kit::raw_amqp::{self, RawChannel};
use crate::kit::scenario::{Kind, Published};
use crate::kit::service::Result;

/// Bursts in a second; each is confirmed before the next.
const BURSTS_A_SECOND: usize = 10;
/// A burst that is not confirmed by then is published anew, elsewhere.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(8);
/// One message in so many has properties that lapin cannot parse.
const ODD_EACH: usize = 25;
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How often each message may have reached the broker: once at least.
#[derive(Debug)]
pub(crate) struct Load {
    pub sent: Vec<u32>,
}

/// Publishes all messages, spread over `length`, to any of these brokers.
///
/// # Errors
/// When a burst is not confirmed for `patience`.
pub(crate) async fn publish(
    brokers: &[config::Bus],
    messages: &[Published],
    (length, patience): (Duration, Duration),
    record: &Record,
) -> Result<Load> {
    let bursts = (length.as_secs() as usize * BURSTS_A_SECOND).max(1);
    let size = messages.len().div_ceil(bursts).max(1);
    let mut sent = vec![0; messages.len()];
    let mut brokers = brokers.iter().cycle();
    let mut broker = brokers.next().ok_or("no broker")?;
    let mut due = tokio::time::Instant::now();
    for (number, (burst, sent)) in messages.chunks(size).zip(sent.chunks_mut(size)).enumerate() {
        tokio::time::sleep_until(due).await;
        due += Duration::from_secs(1) / BURSTS_A_SECOND as u32;
        let began = Instant::now();
        let first = number * size;
        while let Err(error) = confirmed(broker, burst, sent, first).await {
            if began.elapsed() > patience {
                return Err(format!("not confirmed after {patience:?}: {error}").into());
            }
            record.note(&format!("not confirmed from number {first} on: {error}"));
            broker = brokers.next().ok_or("no broker")?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(Load { sent })
}

/// Publishes a burst, the first of which has that number; an error unless every
/// message of it was confirmed.
async fn confirmed(
    bus: &config::Bus,
    burst: &[Published],
    sent: &mut [u32],
    first: usize,
) -> Result<()> {
    let published = async {
        let mut publisher = Publisher::connect(bus).await?;
        let mut odd = Vec::new();
        for (number, (message, sent)) in (first..).zip(burst.iter().zip(sent)) {
            *sent += 1;
            if number.is_multiple_of(ODD_EACH) {
                odd.push((number / ODD_EACH, message));
                continue;
            }
            let headers = EventHeaders {
                event_type: &message.event_type,
                entity_type: &message.entity_type,
                tenant_id: &message.tenant_id,
            };
            publisher
                .publish(&message.routing_key, Some(&headers), &message.body)
                .await?;
        }
        publish_odd(bus, &odd).await?;
        let tally = publisher.finish().await?;
        if tally.confirmed == (burst.len() - odd.len()) as u64 {
            Ok(())
        } else {
            Err(format!("{tally:?} of {}", burst.len()).into())
        }
    };
    tokio::time::timeout(CONFIRM_PATIENCE, published).await?
}

/// Publishes messages in such properties as lapin cannot parse, or as no longer
/// fit into a frame when the broker adds to them.
async fn publish_odd(bus: &config::Bus, messages: &[(usize, &Published)]) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut kinds = [raw_amqp::odd(), raw_amqp::large()].concat();
    // They cost the broker seconds each.
    kinds.retain(|(name, _)| !name.contains("18000"));
    let mut channel = RawChannel::open(bus).await?;
    for (kind, message) in messages {
        let (name, mut raw) = kinds[kind % kinds.len()].clone();
        // A letter is known by its key, and poison is to be known again.
        if name != "routing_key" || matches!(message.kind, Kind::Poison(_)) {
            raw.routing_key = message.routing_key.clone().into_bytes();
        }
        raw.body.clone_from(&message.body);
        channel.publish(&bus.exchange, &raw).await?;
    }
    channel.confirmed().await
}
