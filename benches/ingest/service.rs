//! The service under load, measured from outside.

use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{Result, Service};
use super::report::{Cpu, Measured};

/// How often the service is asked how far it is: seldom enough not to count.
const POLL: Duration = Duration::from_millis(25);
/// No load takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// The service, built in the same profile as this benchmark.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_chat-counters"))
}

/// Waits until a service that was just spawned has settled so many events, and
/// says how that went. The clock starts with the first delivery.
pub(crate) async fn drained(service: &Service, events: usize) -> Result<Measured> {
    let started = Instant::now();
    let mut first = None;
    loop {
        // Until it listens, there is no answer.
        let deliveries = service.counter("chat_counters_deliveries_total", "").await;
        if first.is_none() && deliveries.is_ok_and(|deliveries| deliveries > 0) {
            first = Some((Instant::now(), Cpu::now(service.pid())));
        }
        if let Some((first, before)) = &first
            && service.settled().await? >= events as u64
        {
            return Ok(Measured {
                events_per_second: events as f64 / first.elapsed().as_secs_f64(),
                peak_rss_mib: service.peak_rss_mib()?,
                cpu: Cpu::now(service.pid()).since(before, events),
                batch: mean_batch(service).await?,
            });
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("{events} events are not settled after {PATIENCE:?}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Events in a transaction, on average so far.
async fn mean_batch(service: &Service) -> Result<f64> {
    let sum = service
        .counter("chat_counters_batch_events_sum", "")
        .await?;
    let count = service
        .counter("chat_counters_batch_events_count", "")
        .await?;
    Ok(sum as f64 / count.max(1) as f64)
}
