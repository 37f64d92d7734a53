//! Whether the store takes events: the lanes see it, the bus heeds it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Since when the store takes nothing at all. Clones share it.
///
/// No one asks the store for this: the lanes go on trying what they hold, and
/// the first success ends the outage.
#[derive(Debug, Clone, Default)]
pub struct Outage(watch::Sender<Option<Instant>>);

impl Outage {
    /// An attempt that was begun at that time failed, and may succeed later.
    pub fn seen(&self, began: Instant) {
        self.0.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert(began);
            first
        });
    }

    /// The store has answered.
    pub fn over(&self) {
        // Asked after every batch: mostly there is nothing to tell.
        if self.0.borrow().is_some() {
            self.0.send_replace(None);
        }
    }

    /// Returns once an outage has lasted so long. Cancelling it loses nothing.
    pub async fn lasts(&self, long: Duration) {
        let mut since = self.0.subscribe();
        loop {
            let began = *since.borrow_and_update();
            let due = async {
                match began {
                    Some(began) => sleep_until(began + long).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                // Never an error: the sender is ours.
                _ = since.changed() => {}
            }
        }
    }

    /// Returns once there is none.
    pub async fn ended(&self) {
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const LONG: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_outage_lasts_from_its_first_failure_to_the_first_success() {
        let outage = Outage::default();
        assert_eq!(outage.ended().now_or_never(), Some(()));
        let long_ago = Instant::now().checked_sub(LONG).unwrap();
        outage.seen(long_ago);
        outage.seen(Instant::now());
        assert_eq!(outage.ended().now_or_never(), None);
        outage.lasts(LONG).await;
        outage.over();
        assert_eq!(outage.ended().now_or_never(), Some(()));
        let waiting = tokio::time::timeout(LONG, outage.lasts(Duration::ZERO)).await;
        assert!(waiting.is_err(), "there is none that could last");
    }
}
