//! Messages that come in at a steady pace while something else is measured.

use std::time::{Duration, Instant};

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config::Config;
use tokio::sync::watch;

use super::load::{self, Random, TENANT};

/// Publishes messages, numbered from `first` on, so many a second, to dialogs and by senders that `draw`
/// says, until told to stop; returns how many a second that were.
pub(crate) async fn publish(
    config: Config,
    first: usize,
    per_second: u64,
    mut draw: impl FnMut(&mut Random) -> (usize, usize) + Send,
    stopped: watch::Receiver<bool>,
) -> std::result::Result<f64, String> {
    let sent = async {
        let mut publisher = Publisher::connect(&config.bus).await?;
        let mut random = Random::of(1);
        let (began, mut sent) = (Instant::now(), 0_u64);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !*stopped.borrow() {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * per_second as f64) as u64;
            while sent < due {
                let (dialog, sender) = draw(&mut random);
                one(&mut publisher, first + sent as usize, dialog, sender).await?;
                sent += 1;
            }
        }
        let rate = sent as f64 / began.elapsed().as_secs_f64();
        publisher.finish().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(rate)
    };
    sent.await.map_err(|error| error.to_string())
}

/// Publishes one message.
pub(crate) async fn one(
    publisher: &mut Publisher,
    index: usize,
    dialog: usize,
    sender: usize,
) -> std::result::Result<(), chat_counters::bus::BusError> {
    let event = load::message(index, dialog, sender);
    let headers = EventHeaders {
        event_type: event.event_type,
        entity_type: event.entity_type,
        tenant_id: TENANT,
    };
    let key = headers.routing_key();
    publisher
        .publish(&key, Some(&headers), event.body.as_bytes())
        .await
}
