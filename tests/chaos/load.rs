//! Publishing a scenario through everything that happens, until the broker has
//! confirmed all of it.

use std::time::{Duration, Instant};

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config;

use super::inject::Record;
use crate::kit::scenario::Published;
use crate::kit::service::Result;

/// Bursts in a second; each is confirmed before the next.
const BURSTS_A_SECOND: usize = 10;
/// A burst that is not confirmed by then is published anew, elsewhere.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(8);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How often each message may have reached the broker: once at least.
#[derive(Debug)]
pub struct Load {
    pub sent: Vec<u32>,
}

/// Publishes all messages, spread over `length`, to any of these brokers.
///
/// # Errors
/// When a burst is not confirmed for `patience`.
pub async fn publish(
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
        while let Err(error) = confirmed(broker, burst, sent).await {
            if began.elapsed() > patience {
                return Err(format!("not confirmed after {patience:?}: {error}").into());
            }
            let first = number * size;
            record.note(&format!("not confirmed from number {first} on: {error}"));
            broker = brokers.next().ok_or("no broker")?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(Load { sent })
}

/// Publishes a burst; an error unless every message of it was confirmed.
async fn confirmed(bus: &config::Bus, burst: &[Published], sent: &mut [u32]) -> Result<()> {
    let published = async {
        let mut publisher = Publisher::connect(bus).await?;
        for (message, sent) in burst.iter().zip(sent) {
            let headers = EventHeaders {
                event_type: &message.event_type,
                entity_type: &message.entity_type,
                tenant_id: &message.tenant_id,
            };
            *sent += 1;
            publisher
                .publish(&message.routing_key, Some(&headers), &message.body)
                .await?;
        }
        let tally = publisher.finish().await?;
        if tally.confirmed == burst.len() as u64 {
            Ok(())
        } else {
            Err(format!("{tally:?} of {}", burst.len()).into())
        }
    };
    tokio::time::timeout(CONFIRM_PATIENCE, published).await?
}
