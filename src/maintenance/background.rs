//! The service looks over its own shoulder: now and then it verifies a few
//! dialogs drawn at random.

use std::time::Duration;

use tracing::{error, warn};

use super::Verifier;
use crate::config;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// Verifies a few dialogs now and then until the shutdown. It says what
/// differs, and repairs nothing: that is for a person to decide.
pub(crate) async fn run(
    store: Store,
    config: config::Verify,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let interval = Duration::from_secs(config.interval_seconds);
    let verifier = Verifier::new(store.clone(), None);
    while !interval.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.requested() => return,
        }
        // An outage is told of by those who cannot work because of it.
        let _ = round(&store, &verifier, config.dialogs, &metrics, &shutdown).await;
    }
}

async fn round(
    store: &Store,
    verifier: &Verifier,
    dialogs: u32,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<(), crate::store::StoreError> {
    for key in store.random_dialogs(dialogs).await? {
        if shutdown.is_requested() {
            break;
        }
        let verified = match verifier.dialog(&key).await {
            Ok(verified) => verified,
            Err(error) => {
                warn!(tenant = %key.tenant, dialog = %key.dialog, %error, "cannot verify a dialog");
                continue;
            }
        };
        metrics.verification.dialogs.inc();
        let differences = verified.differences.len();
        if let Some(first) = verified.differences.first() {
            metrics.verification.differences.inc_by(differences as u64);
            error!(tenant = %key.tenant, dialog = %key.dialog, differences,
                first = %first,
                "counters differ from the recorded facts; see `chat-counters verify`");
        }
    }
    Ok(())
}
