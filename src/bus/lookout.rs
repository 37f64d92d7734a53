//! How many dead letters there are, asked over and over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::connect::Link;
use super::error::BusError;
use super::topology;
use crate::config;

/// How long a broker is waited for that does not answer: looking does without.
const PATIENCE: Duration = Duration::from_secs(1);

/// The dead-letter queue as it is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Letters that nobody holds.
    pub letters: u32,
    /// Somebody consumes, and perhaps holds, letters.
    pub held: bool,
    /// Bytes of the largest frame that the broker takes; 0 is no limit.
    pub frame_max: usize,
}

/// Looks at the dead-letter queue, and keeps its connection for the next time:
/// a broker suffers more from connections that come and go than from those that
/// stay. Clones share it.
#[derive(Clone)]
pub struct Lookout {
    bus: config::Bus,
    link: Arc<Mutex<Option<Link>>>,
}

impl Lookout {
    /// Connects when it is first asked.
    pub fn new(bus: config::Bus) -> Self {
        let link = Arc::default();
        Self { bus, link }
    }

    /// How the queue is now. One that does not exist has no letters.
    ///
    /// # Errors
    /// When the broker cannot be reached, or does not answer within a second.
    pub async fn look(&self) -> Result<Sight, BusError> {
        let asked = async {
            let kept = Arc::clone(&self.link).lock_owned().await;
            let lookout = self.clone();
            // Never cut off: that would leave a connection behind at each look. One
            // look waits for a broker that is frozen, and all others for that one.
            tokio::spawn(async move { lookout.ask(kept).await }).await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(sight)) => sight,
            Ok(Err(panicked)) => Err(unanswered(&panicked.to_string())),
            Err(_) => Err(unanswered("no answer within 1 s")),
        }
    }

    async fn ask(&self, mut kept: OwnedMutexGuard<Option<Link>>) -> Result<Sight, BusError> {
        // Taken out, lest one that is given up on half-way be used again.
        if let Some(link) = kept.take()
            && let Ok(sight) = self.sight(&link).await
        {
            *kept = Some(link);
            return Ok(sight);
        }
        let link = Link::open(&self.bus, "chat-counters dead letters, lookout").await?;
        let sight = self.sight(&link).await?;
        *kept = Some(link);
        Ok(sight)
    }

    async fn sight(&self, link: &Link) -> Result<Sight, BusError> {
        let name = &self.bus.dead_letter_queue;
        let counts = topology::counts(link, "bus.dead_letter_queue", name).await?;
        Ok(Sight {
            letters: counts.map_or(0, |counts| counts.ready),
            held: counts.is_some_and(|counts| counts.consumers > 0),
            frame_max: link.connection.configuration().frame_max() as usize,
        })
    }

    /// Says good-bye to the broker.
    pub async fn close(&self) {
        // A look that waits for a frozen broker ends with the process.
        let kept = tokio::time::timeout(PATIENCE, self.link.lock()).await;
        if let Some(link) = kept.ok().and_then(|mut kept| kept.take()) {
            link.close().await;
        }
    }
}

fn unanswered(why: &str) -> BusError {
    BusError::Lost {
        doing: "looking at the dead-letter queue".into(),
        why: why.into(),
    }
}

impl std::fmt::Debug for Lookout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookout").finish_non_exhaustive()
    }
}
