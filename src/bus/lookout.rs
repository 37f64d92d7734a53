//! How many dead letters there are, asked over and over.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::connect::Link;
use super::error::BusError;
use super::topology;
use crate::config;

/// The dead-letter queue as it is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Letters that nobody holds.
    pub letters: u32,
    /// Somebody consumes, and perhaps holds, letters.
    pub held: bool,
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
    /// When the broker cannot be reached.
    pub async fn look(&self) -> Result<Sight, BusError> {
        let mut kept = self.link.lock().await;
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
        })
    }

    /// Says good-bye to the broker.
    pub async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.close().await;
        }
    }
}

impl std::fmt::Debug for Lookout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookout").finish_non_exhaustive()
    }
}
