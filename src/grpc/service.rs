//! The methods of `CounterService`: check, read, convert.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, error, info_span};

use super::request::{Check, listing, token};
use super::v1::counter_service_server::CounterService;
use super::{convert, v1};
use crate::config;
use crate::event::{DialogId, MessageId, TenantId, UserId};
use crate::store::{Reader, StoreError};

/// Answered a little before the caller gives up, so that it hears why.
const MARGIN: f64 = 0.95;

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Counters {
    reader: Reader,
    slots: Arc<Semaphore>,
    default_deadline: Duration,
    max_deadline: Duration,
}

impl Counters {
    /// A service with the limits of the configuration.
    pub fn new(reader: Reader, config: &config::Grpc) -> Self {
        Self {
            reader,
            slots: Arc::new(Semaphore::new(config.max_concurrent_requests)),
            default_deadline: Duration::from_millis(config.default_deadline_ms),
            max_deadline: Duration::from_millis(config.max_deadline_ms),
        }
    }

    /// Reads within the caller's deadline and the limit of requests at once.
    ///
    /// The read is a task of its own: a caller who hangs up does not cut the
    /// driver off half-way.
    async fn answer<T, F>(
        &self,
        method: &'static str,
        tenant: &TenantId,
        deadline: Duration,
        read: impl FnOnce(Reader) -> F,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "too many requests are being served (grpc.max_concurrent_requests); \
                 try again later",
            ));
        };
        let read = read(self.reader.clone());
        let span = info_span!("grpc", method, %tenant);
        let task = async move {
            let answer = tokio::time::timeout(deadline, read).await;
            drop(slot);
            answer
        };
        match tokio::spawn(task.instrument(span.clone())).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(failed))) => Err(span.in_scope(|| status(&failed))),
            Ok(Err(_elapsed)) => Err(Status::deadline_exceeded(format!(
                "no answer within {deadline:?}: the store is slow, or the event of \
                 after_event_id has not arrived"
            ))),
            Err(panic) => {
                span.in_scope(|| error!(%panic, "a read panicked"));
                Err(Status::internal("a read failed; see the service's log"))
            }
        }
    }

    /// The caller's deadline, from `grpc-timeout`, capped.
    fn deadline<T>(&self, request: &Request<T>) -> Duration {
        let header = request.metadata().get("grpc-timeout");
        let asked = header.and_then(|value| parse_timeout(value.to_str().ok()?));
        let deadline = asked.map_or(self.default_deadline, |asked| asked.mul_f64(MARGIN));
        deadline.min(self.max_deadline)
    }
}

/// `grpc-timeout`: up to 8 digits and a unit.
fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// What the caller hears of a failed read. The details stay in the log: they
/// may name hosts.
fn status(failed: &StoreError) -> Status {
    if failed.is_unreachable() {
        return Status::unavailable("the store cannot be reached at the moment; try again");
    }
    error!(error = %failed, "a read failed");
    Status::internal("a read failed; see the service's log")
}

#[tonic::async_trait]
impl CounterService for Counters {
    async fn get_user_stats(
        &self,
        request: Request<v1::GetUserStatsRequest>,
    ) -> Result<Response<v1::UserStats>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let user = check.id("user_id", &request.user_id, UserId::new);
        let after = check.after(&request.after_event_id);
        let (tenant, user) = check.done(tenant.zip(user))?;
        let (t, u) = (tenant.clone(), user.clone());
        let read = |reader: Reader| async move { reader.users(&t, &[u], after.as_ref()).await };
        let stats = self.answer("GetUserStats", &tenant, deadline, read).await?;
        let stats = stats.into_iter().next().unwrap_or_default();
        Ok(Response::new(convert::user(&tenant, &user, stats)))
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<v1::BatchGetUserStatsRequest>,
    ) -> Result<Response<v1::BatchGetUserStatsResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let users = check.ids("user_ids", &request.user_ids, UserId::new);
        let tenant = check.done(tenant)?;
        let (t, u) = (tenant.clone(), users.clone());
        let read = |reader: Reader| async move { reader.users(&t, &u, None).await };
        let stats = self
            .answer("BatchGetUserStats", &tenant, deadline, read)
            .await?;
        let stats = users.iter().zip(stats);
        let user_stats = stats.map(|(user, stats)| convert::user(&tenant, user, stats));
        Ok(Response::new(v1::BatchGetUserStatsResponse {
            user_stats: user_stats.collect(),
        }))
    }

    async fn get_user_dialog_stats(
        &self,
        request: Request<v1::GetUserDialogStatsRequest>,
    ) -> Result<Response<v1::UserDialogStats>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let user = check.id("user_id", &request.user_id, UserId::new);
        let dialog = check.id("dialog_id", &request.dialog_id, DialogId::new);
        let after = check.after(&request.after_event_id);
        let ((tenant, user), dialog) = check.done(tenant.zip(user).zip(dialog))?;
        let (t, u, d) = (tenant.clone(), user.clone(), dialog.clone());
        let read =
            |reader: Reader| async move { reader.user_dialog(&t, &u, &d, after.as_ref()).await };
        let stats = self
            .answer("GetUserDialogStats", &tenant, deadline, read)
            .await?;
        let stats = convert::user_dialog(&tenant, &user, dialog.as_str(), stats);
        Ok(Response::new(stats))
    }

    async fn list_user_dialog_stats(
        &self,
        request: Request<v1::ListUserDialogStatsRequest>,
    ) -> Result<Response<v1::ListUserDialogStatsResponse>, Status> {
        let deadline = self.deadline(&request);
        let page = listing(&request.into_inner())?;
        let asked = page.clone();
        let read = |reader: Reader| async move { reader.user_dialogs(&asked).await };
        let found = self
            .answer("ListUserDialogStats", &page.tenant, deadline, read)
            .await?;
        let is_full = found.len() == page.limit;
        let next = found.last().filter(|_| is_full);
        let next_page_token = next
            .map(|(dialog, _)| token(&page, dialog))
            .unwrap_or_default();
        let stats = found
            .into_iter()
            .map(|(dialog, stats)| convert::user_dialog(&page.tenant, &page.user, &dialog, stats));
        Ok(Response::new(v1::ListUserDialogStatsResponse {
            user_dialog_stats: stats.collect(),
            next_page_token,
        }))
    }

    async fn get_dialog_stats(
        &self,
        request: Request<v1::GetDialogStatsRequest>,
    ) -> Result<Response<v1::DialogStats>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let dialog = check.id("dialog_id", &request.dialog_id, DialogId::new);
        let after = check.after(&request.after_event_id);
        let (tenant, dialog) = check.done(tenant.zip(dialog))?;
        let (t, d) = (tenant.clone(), dialog.clone());
        let read = |reader: Reader| async move { reader.dialogs(&t, &[d], after.as_ref()).await };
        let stats = self
            .answer("GetDialogStats", &tenant, deadline, read)
            .await?;
        let stats = stats.into_iter().next().unwrap_or_default();
        Ok(Response::new(convert::dialog(
            &tenant,
            dialog.as_str(),
            stats,
        )))
    }

    async fn batch_get_dialog_stats(
        &self,
        request: Request<v1::BatchGetDialogStatsRequest>,
    ) -> Result<Response<v1::BatchGetDialogStatsResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let dialogs = check.ids("dialog_ids", &request.dialog_ids, DialogId::new);
        let tenant = check.done(tenant)?;
        let (t, d) = (tenant.clone(), dialogs.clone());
        let read = |reader: Reader| async move { reader.dialogs(&t, &d, None).await };
        let stats = self
            .answer("BatchGetDialogStats", &tenant, deadline, read)
            .await?;
        let stats = dialogs.iter().zip(stats);
        let stats = stats.map(|(dialog, stats)| convert::dialog(&tenant, dialog.as_str(), stats));
        Ok(Response::new(v1::BatchGetDialogStatsResponse {
            dialog_stats: stats.collect(),
        }))
    }

    async fn get_message_stats(
        &self,
        request: Request<v1::GetMessageStatsRequest>,
    ) -> Result<Response<v1::MessageStats>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let message = check.id("message_id", &request.message_id, MessageId::new);
        let after = check.after(&request.after_event_id);
        let (tenant, message) = check.done(tenant.zip(message))?;
        let (t, m) = (tenant.clone(), message.clone());
        let read = |reader: Reader| async move { reader.messages(&t, &[m], after.as_ref()).await };
        let stats = self
            .answer("GetMessageStats", &tenant, deadline, read)
            .await?;
        let stats = stats.into_iter().next().unwrap_or_default();
        Ok(Response::new(convert::message(
            &tenant,
            message.as_str(),
            stats,
        )))
    }

    async fn batch_get_message_stats(
        &self,
        request: Request<v1::BatchGetMessageStatsRequest>,
    ) -> Result<Response<v1::BatchGetMessageStatsResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let mut check = Check::default();
        let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
        let messages = check.ids("message_ids", &request.message_ids, MessageId::new);
        let tenant = check.done(tenant)?;
        let (t, m) = (tenant.clone(), messages.clone());
        let read = |reader: Reader| async move { reader.messages(&t, &m, None).await };
        let stats = self
            .answer("BatchGetMessageStats", &tenant, deadline, read)
            .await?;
        let stats = messages.iter().zip(stats);
        let stats =
            stats.map(|(message, stats)| convert::message(&tenant, message.as_str(), stats));
        Ok(Response::new(v1::BatchGetMessageStatsResponse {
            message_stats: stats.collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let rows = [
            ("5S", Some(Duration::from_secs(5))),
            ("200m", Some(Duration::from_millis(200))),
            ("1H", Some(Duration::from_secs(3_600))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("123456789S", None),
            ("5", None),
            ("", None),
            ("S", None),
            ("5é", None),
        ];
        for (value, expected) in rows {
            assert_eq!(parse_timeout(value), expected, "{value:?}");
        }
    }
}
