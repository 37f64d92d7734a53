//! Telling a tenant anew all that its users have: page by page, and later when it
//! alone cannot be told of.

use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Rounds;
use crate::bus::notifier::Notifier;
use crate::event::TenantId;
use crate::notify::NotifyError;
use crate::notify::publish::{PublishContext, ReadSource};
use crate::store::read::{MAX_SHARES_PER_ANSWER, SharesAfter};
use crate::store::{NotificationCursor, TenantWalk};

/// A store that answers within so long is not slow by itself.
const PROMPT_ANSWER: Duration = Duration::from_secs(2);
/// How long a tenant that cannot be told of rests at first; then twice as long
/// each time.
const MIN_DEFERRAL: Duration = Duration::from_secs(1);
/// The longest time that a tenant that cannot be told of rests.
const MAX_DEFERRAL: Duration = Duration::from_secs(60);

/// A tenant that could not be told of, and rests.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeferredTenant {
    until: Instant,
    pause: Duration,
    /// Whether some queues do not take it: those that do get it at once.
    is_refused: bool,
}

impl DeferredTenant {
    /// Tells whether it is not even tried for now.
    pub(super) fn waits(&self) -> bool {
        !self.is_refused && self.until > Instant::now()
    }
}

impl Rounds<'_> {
    /// Has a tenant told anew in a while, so that others do not wait for it, when it
    /// is this one alone that cannot be told of.
    pub(super) async fn defer(
        &mut self,
        tenant: TenantId,
        error: NotifyError,
        to: &mut NotificationCursor,
    ) -> Result<(), NotifyError> {
        if !error.is_of_one_tenant() || !self.is_prompt().await {
            return Err(error);
        }
        let is_refused = matches!(error, NotifyError::Refused(_));
        let deferred = self.deferred.entry(tenant.clone()).or_insert_with(|| {
            warn!(%tenant, %error, "notifications of a tenant wait, and will all be published anew");
            DeferredTenant {
                until: Instant::now(),
                pause: MIN_DEFERRAL,
                is_refused,
            }
        });
        deferred.is_refused = is_refused;
        if deferred.until <= Instant::now() {
            deferred.until = Instant::now() + deferred.pause;
            deferred.pause = (deferred.pause * 2).min(MAX_DEFERRAL);
        }
        self.publisher.metrics.failed();
        to.tell_anew(tenant);
        Ok(())
    }

    /// Whether the store answers as usual: then what was too slow is so by itself.
    async fn is_prompt(&self) -> bool {
        let asked = tokio::time::timeout(PROMPT_ANSWER, self.position());
        matches!(asked.await, Ok(Ok(_)))
    }

    /// Has some more told of those who are told anew: of the next tenant.
    pub(super) async fn tell_anew(
        &mut self,
        notifier: &Notifier,
        (floor, to): (&NotificationCursor, &mut NotificationCursor),
    ) -> Result<(), NotifyError> {
        let Some(tenant) = self.next_anew(to) else {
            return Ok(());
        };
        self.last_anew = Some(tenant.clone());
        let walk = to.anew.remove(&tenant).unwrap_or_default();
        let (walk, told) = self.tell_page((notifier, floor), &tenant, walk).await;
        if let Some(walk) = walk {
            to.anew.insert(tenant.clone(), walk);
        }
        if let Err(error) = told {
            return self.defer(tenant, error, to).await;
        }
        if self.deferred.remove(&tenant).is_some() {
            info!(%tenant, "notifications of a tenant go on");
        }
        Ok(())
    }

    /// Tells the next shares of a walk; what is left of the walk then. What a queue has
    /// refused comes once more when the walk is renewed.
    async fn tell_page(
        &self,
        (notifier, floor): (&Notifier, &NotificationCursor),
        tenant: &TenantId,
        mut walk: TenantWalk,
    ) -> (Option<TenantWalk>, Result<(), NotifyError>) {
        let query = SharesAfter {
            tenant: tenant.clone(),
            after: walk.after().cloned(),
            limit: MAX_SHARES_PER_ANSWER,
        };
        let shares = match self.publisher.read_in_time(query, floor).await {
            Ok(shares) => shares,
            Err(error) => return (Some(walk), Err(error)),
        };
        let context = PublishContext {
            notifier,
            lease: self.lease,
            floor,
            source: ReadSource::Store,
        };
        let told = self.publisher.tell_shares(context, (tenant, &shares)).await;
        let is_told = matches!(told, Ok(()) | Err(NotifyError::Refused(_)));
        let goes_on = !is_told || walk.told(shares.last(), shares.len() < MAX_SHARES_PER_ANSWER);
        (goes_on.then_some(walk), told)
    }

    /// Whose turn it is of those who are told anew.
    fn next_anew(&self, to: &NotificationCursor) -> Option<TenantId> {
        let now = Instant::now();
        let rests = |tenant: &TenantId| self.deferred.get(tenant).is_some_and(|of| of.until > now);
        let from = match &self.last_anew {
            Some(last) => Bound::Excluded(last.clone()),
            None => Bound::Unbounded,
        };
        let later = to.anew.range((from, Bound::Unbounded));
        let mut tenants = later.chain(&to.anew).map(|(tenant, _)| tenant);
        tenants.find(|tenant| !rests(tenant)).cloned()
    }
}
