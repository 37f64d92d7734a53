//! How long the dead-letter queue is, asked over and over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::bus::connect::Link;
use crate::bus::error::BusError;
use crate::bus::topology;
use crate::config;

/// How long an answer of the broker is waited for: listing letters does without.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// The dead-letter queue as it is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueDepth {
    /// The number of letters that nobody holds.
    pub(crate) letters: u32,
    /// Whether somebody consumes, and perhaps holds, letters.
    pub(crate) is_consumed: bool,
    /// The size of the largest frame that the broker takes, in bytes; 0 is no limit.
    pub(crate) frame_max: usize,
}

/// Asks for the depth of the dead-letter queue, and keeps its connection for the next
/// time: a broker suffers more from connections that come and go than from those that
/// stay. Clones share it.
#[derive(Clone)]
pub(crate) struct QueueDepthProbe {
    bus: config::Bus,
    link: Arc<Mutex<Option<Link>>>,
}

impl QueueDepthProbe {
    /// Connects when it is first asked.
    pub(crate) fn new(bus: config::Bus) -> Self {
        let link = Arc::default();
        Self { bus, link }
    }

    /// How deep the queue is now. One that does not exist has no letters.
    ///
    /// # Errors
    /// When the broker cannot be reached, or does not answer within a second.
    pub(crate) async fn query(&self) -> Result<QueueDepth, BusError> {
        let answer = async {
            let kept = Arc::clone(&self.link).lock_owned().await;
            let probe = self.clone();
            // Never cut off: that would leave a connection behind at each query. One
            // query waits for a broker that is frozen, and all others for that one.
            tokio::spawn(async move { probe.ask(kept).await }).await
        };
        match tokio::time::timeout(QUERY_TIMEOUT, answer).await {
            Ok(Ok(depth)) => depth,
            Ok(Err(panicked)) => Err(unanswered(&panicked.to_string())),
            Err(_) => Err(unanswered("no answer within 1 s")),
        }
    }

    async fn ask(&self, mut kept: OwnedMutexGuard<Option<Link>>) -> Result<QueueDepth, BusError> {
        // Taken out, lest one that is given up on half-way be used again.
        if let Some(link) = kept.take()
            && let Ok(depth) = self.depth(&link).await
        {
            *kept = Some(link);
            return Ok(depth);
        }
        let link = Link::open(&self.bus, "chat-counters dead letters, lookout").await?;
        let depth = self.depth(&link).await?;
        *kept = Some(link);
        Ok(depth)
    }

    async fn depth(&self, link: &Link) -> Result<QueueDepth, BusError> {
        let name = &self.bus.dead_letter_queue;
        let counts = topology::counts(link, "bus.dead_letter_queue", name).await?;
        Ok(QueueDepth {
            letters: counts.map_or(0, |counts| counts.ready),
            is_consumed: counts.is_some_and(|counts| counts.consumers > 0),
            frame_max: link.connection.configuration().frame_max() as usize,
        })
    }

    /// Closes the connection, if there is one.
    pub(crate) async fn close(&self) {
        // A query that waits for a frozen broker ends with the process.
        let kept = tokio::time::timeout(QUERY_TIMEOUT, self.link.lock()).await;
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

impl std::fmt::Debug for QueueDepthProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueDepthProbe").finish_non_exhaustive()
    }
}
