//! What streams wait for: those whom they watch to be read into memory, and what has
//! changed since a client lost its stream.

use std::future::pending;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{ResumePoint, Subject};
use crate::event::TenantId;
use crate::serving::load::LoadResult;
use crate::serving::model::{LoadKeys, Touched};
use crate::serving::{MAX_FETCHED_COMMITS, Serving};
use crate::store::commit_log::{Record, Span};

/// The longest time that a load may take before it is tried again.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The time before a load that failed is tried again.
const LOAD_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// The number of times that a stream waits for memory to come to where its client was.
const MAX_CATCH_UP_WAITS: u32 = 5;

/// A load or a read that a stream waits for.
pub(super) struct Loading(BoxFuture<'static, Loaded>);

/// What has come of a load or a read.
pub(super) enum Loaded {
    /// It is to be looked whether they are held, and may be tried again.
    LookAgain,
    /// They were read, and may be held.
    Perhaps,
    /// What was touched since the client was there; `None`: that cannot be told.
    Touched(Option<Touched>),
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Loading")
    }
}

impl Loading {
    /// Waits for this to come.
    pub(super) fn new(loading: impl Future<Output = Loaded> + Send + 'static) -> Self {
        Self(Box::pin(loading))
    }
}

/// Waits for what is loaded, if anything is.
pub(super) async fn finished(loading: &mut Option<Loading>) -> Loaded {
    let Some(Loading(under_way)) = loading else {
        return pending().await;
    };
    let loaded = under_way.await;
    *loading = None;
    loaded
}

impl Serving {
    /// Has these read into memory.
    pub(super) async fn loaded(self, tenant: TenantId, subjects: Vec<Subject>) -> Loaded {
        let mut wanted = LoadKeys::default();
        for subject in subjects {
            match subject {
                Subject::User(user) => wanted.users.push(user),
                Subject::Dialog(dialog) => wanted.dialogs.push(dialog),
            }
        }
        match self
            .load(&tenant, wanted, Instant::now() + LOAD_TIMEOUT)
            .await
        {
            LoadResult::Perhaps | LoadResult::NoRoom => Loaded::Perhaps,
            LoadResult::Failed => {
                sleep(LOAD_RETRY_INTERVAL).await;
                Loaded::LookAgain
            }
        }
    }

    /// Tells whether a user was found of late to have more than memory has room for.
    pub(super) fn is_too_large(&self, tenant: &TenantId, subject: &Subject) -> bool {
        match subject {
            Subject::User(user) => self.shared.too_large.has(tenant, user),
            Subject::Dialog(_) => false,
        }
    }

    /// Returns what was touched since a client was given everything; `None` when that
    /// cannot be told.
    pub(super) async fn touched_since(
        &self,
        tenant: &TenantId,
        since: ResumePoint,
    ) -> Option<Touched> {
        let spans = self.spans_since(&since).await?;
        let count: i64 = spans.iter().map(|span| span.to + 1 - span.from).sum();
        if count > MAX_FETCHED_COMMITS {
            return None;
        }
        let store = self.shared.store.clone();
        // What uses the driver is not to be dropped half-way.
        let fetched = tokio::spawn(async move { store.commit_records(&spans).await });
        let fetched = fetched.await.ok()?.ok()?;
        let is_told = |record: &Record| !record.untold.contains(tenant);
        let all_told = fetched.iter().all(|committed| is_told(&committed.record));
        if fetched.len() as i64 != count || !all_told {
            return None;
        }
        let memory = self.shared.memory();
        let records = fetched.iter().map(|committed| &*committed.record);
        Some(memory.model.touched_by(records))
    }

    /// The commits that memory has and a client was not given. Waits until memory
    /// has come to where the client was.
    async fn spans_since(&self, since: &ResumePoint) -> Option<Vec<Span>> {
        for _ in 0..MAX_CATCH_UP_WAITS {
            {
                let memory = self.shared.memory();
                if memory.untold() != since.untold {
                    return None;
                }
                let now = memory.model.cut();
                if now.covers(&since.cut) {
                    let ahead = since.cut.until(now);
                    let span = |(writer, from, to)| Span { writer, from, to };
                    return Some(ahead.map(span).collect());
                }
            }
            self.round().await?;
        }
        None
    }
}
