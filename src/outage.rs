//! Whether the store takes events: the lanes see it, the bus heeds it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Since when the store takes nothing at all. Clones share it.
///
/// The lanes go on trying what they hold, and the first success, or an answer to
/// [`probe_store`](crate::lane::probe_store), ends the outage.
#[derive(Debug, Clone)]
pub struct Outage(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
enum State {
    /// The store last answered at this time.
    Answered(Instant),
    /// The store has taken nothing since this time.
    Silent(Instant),
}

impl Default for Outage {
    fn default() -> Self {
        Self(watch::Sender::new(State::Answered(Instant::now())))
    }
}

impl Outage {
    /// Notes that the store has not answered an attempt that began at `began`: the attempt
    /// failed and may succeed later, or is still under way. The outage begins at `began`, or
    /// at the latest answer that anybody got from the store, whichever is later. During an
    /// outage it changes nothing.
    pub fn note_silence(&self, began: Instant) {
        self.0.send_if_modified(|state| match *state {
            State::Answered(at) => {
                *state = State::Silent(began.max(at));
                true
            }
            State::Silent(_) => false,
        });
    }

    /// Notes that the store has answered just now, which ends an outage.
    pub fn note_answer(&self) {
        self.0.send_if_modified(|state| {
            let was_silent = matches!(state, State::Silent(_));
            *state = State::Answered(Instant::now());
            was_silent
        });
    }

    /// Returns once an outage has lasted for `long`. Cancelling it loses nothing.
    pub async fn lasts(&self, long: Duration) {
        let mut state = self.0.subscribe();
        loop {
            let now = *state.borrow_and_update();
            let due = async {
                match now {
                    State::Silent(since) => sleep_until(since + long).await,
                    State::Answered(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                // Never an error: the sender is ours.
                _ = state.changed() => {}
            }
        }
    }

    /// Returns whether an outage has lasted for at least `long` by now.
    pub fn has_lasted(&self, long: Duration) -> bool {
        matches!(*self.0.borrow(), State::Silent(since) if since.elapsed() >= long)
    }

    /// Returns once there is no outage.
    pub async fn ended(&self) {
        let answers = |state: &State| matches!(state, State::Answered(_));
        let _ = self.0.subscribe().wait_for(answers).await;
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
        outage.note_silence(Instant::now());
        assert_eq!(outage.ended().now_or_never(), None);
        outage.lasts(LONG).await;
        outage.note_answer();
        assert_eq!(outage.ended().now_or_never(), Some(()));
        let waiting = tokio::time::timeout(LONG, outage.lasts(Duration::ZERO)).await;
        assert!(waiting.is_err(), "there is none that could last");
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_no_outage_while_others_succeed() {
        let (outage, began) = (Outage::default(), Instant::now());
        tokio::time::sleep_until(began + LONG).await;
        outage.note_answer();
        outage.note_silence(began);
        assert_eq!(outage.lasts(LONG).now_or_never(), None);
    }
}
