//! Waking those who wait for an event to be committed.

use tokio::sync::watch;

/// Tells readers of this process that something was committed by it. Commits
/// of other replicas are not seen here: who waits must also look from time to
/// time.
#[derive(Debug, Clone)]
pub struct CommitFeed(watch::Sender<u64>);

impl Default for CommitFeed {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl CommitFeed {
    /// To be called after every commit.
    pub fn committed(&self) {
        self.0
            .send_modify(|commits| *commits = commits.wrapping_add(1));
    }

    /// A receiver that changes with every commit from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
