//! Whether it is the store that is away, or only the lanes that cannot get on.

use std::time::Duration;

use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// How long the store may take to answer: it counts as away when it takes
/// longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two probes of a store that does not answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Returns whether the store takes any write at all.
pub(super) async fn store_takes_writes(store: &Store) -> bool {
    let taken = tokio::time::timeout(PROBE_TIMEOUT, store.takes_writes()).await;
    matches!(taken, Ok(Ok(())))
}

/// Asks the store itself when no lane has had a success for half as long as
/// deliveries may be held. The only lane with work may be at an event that fails
/// each time, and must not have all others wait for what it will never say.
///
/// Ends with the shutdown.
pub async fn probe_store(store: Store, outage: Outage, hold: Duration, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = outage.lasts(hold / 2) => {}
            () = shutdown.requested() => return,
        }
        if store_takes_writes(&store).await {
            outage.note_answer();
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
            () = shutdown.requested() => return,
        }
    }
}
