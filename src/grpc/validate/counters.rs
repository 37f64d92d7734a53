//! Reads of counters.

use std::time::Duration;

use tonic::Status;

use super::{Valid, Violations};
use crate::auth::Identity;
use crate::event::{DialogId, MessageId};
use crate::grpc::bounds::{MAX_BATCH_IDS, MAX_PAGE_SIZE};
use crate::grpc::v1;
use crate::store::read;

/// The oldest answer that can be asked for.
const MAX_STALENESS_MS: u64 = 60_000;

/// A query for a user's dialogs, by the order that they are to have.
#[derive(Debug)]
pub(in crate::grpc) enum Listing {
    /// The dialogs are ordered by id.
    ById(read::DialogsOfUser),
    /// The dialogs are in an order that moves.
    InOrder(read::DialogsInOrder),
}

/// Checks how old an answer may be.
pub(in crate::grpc) fn staleness(millis: i32) -> Result<Duration, Status> {
    let mut found = Violations::default();
    match u64::try_from(millis) {
        Ok(millis) if millis <= MAX_STALENESS_MS => Ok(Duration::from_millis(millis)),
        _ => {
            let expected = format!("0 to {MAX_STALENESS_MS}, found {millis}");
            found.add("max_staleness_ms", expected);
            Err(found.into_status())
        }
    }
}

/// Checks a `GetUserStatsRequest`.
pub(in crate::grpc) fn user(
    request: &v1::GetUserStatsRequest,
    who: &Identity,
) -> Valid<read::Users> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(user), Some(after)) = (tenant, user, after) else {
        return Err(found.into_status());
    };
    let users = vec![user];
    Ok((read::Users { tenant, users }, after))
}

/// Checks a `BatchGetUserStatsRequest`.
pub(in crate::grpc) fn users(
    request: &v1::BatchGetUserStatsRequest,
    who: &Identity,
) -> Valid<read::Users> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let users = found.users(MAX_BATCH_IDS, "user_ids", &request.user_ids, who);
    let (Some(tenant), Some(users)) = (tenant, users) else {
        return Err(found.into_status());
    };
    Ok((read::Users { tenant, users }, None))
}

/// Checks a `GetUserDialogStatsRequest`.
pub(in crate::grpc) fn user_in_dialog(
    request: &v1::GetUserDialogStatsRequest,
    who: &Identity,
) -> Valid<read::UserInDialog> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let dialog = found.id("dialog_id", &request.dialog_id, DialogId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(user), Some(dialog), Some(after)) = (tenant, user, dialog, after)
    else {
        return Err(found.into_status());
    };
    let query = read::UserInDialog {
        tenant,
        user,
        dialog,
    };
    Ok((query, after))
}

/// Checks a `ListUserDialogStatsRequest`.
pub(in crate::grpc) fn dialogs_of_user(
    request: &v1::ListUserDialogStatsRequest,
    who: &Identity,
) -> Valid<Listing> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let limit = found.page_size(request.page_size, MAX_PAGE_SIZE);
    let order = found.order(request.order_by);
    let (Some(tenant), Some(user), Some(limit), Some(order)) = (tenant, user, limit, order) else {
        return Err(found.into_status());
    };
    let (unread_only, token) = (request.unread_only, &request.page_token);
    let listing = match order {
        None => {
            let mut query = read::DialogsOfUser {
                tenant,
                user,
                unread_only,
                after: None,
                limit,
            };
            query.after = found.page_token(&query, token);
            Listing::ById(query)
        }
        Some(order) => {
            let mut query = read::DialogsInOrder {
                tenant,
                user,
                order,
                unread_only,
                after: None,
                limit,
            };
            query.after = found.page_token(&query, token);
            Listing::InOrder(query)
        }
    };
    found.checked()?;
    Ok((listing, None))
}

/// Checks a `GetDialogStatsRequest`.
pub(in crate::grpc) fn dialog(
    request: &v1::GetDialogStatsRequest,
    who: &Identity,
) -> Valid<read::Dialogs> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let dialog = found.id("dialog_id", &request.dialog_id, DialogId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(dialog), Some(after)) = (tenant, dialog, after) else {
        return Err(found.into_status());
    };
    let dialogs = vec![dialog];
    Ok((read::Dialogs { tenant, dialogs }, after))
}

/// Checks a `BatchGetDialogStatsRequest`.
pub(in crate::grpc) fn dialogs(
    request: &v1::BatchGetDialogStatsRequest,
    who: &Identity,
) -> Valid<read::Dialogs> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let dialogs = found.ids("dialog_ids", &request.dialog_ids, DialogId::new);
    let (Some(tenant), Some(dialogs)) = (tenant, dialogs) else {
        return Err(found.into_status());
    };
    Ok((read::Dialogs { tenant, dialogs }, None))
}

/// Checks a `GetMessageStatsRequest`.
pub(in crate::grpc) fn message(
    request: &v1::GetMessageStatsRequest,
    who: &Identity,
) -> Valid<read::Messages> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let message = found.id("message_id", &request.message_id, MessageId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(message), Some(after)) = (tenant, message, after) else {
        return Err(found.into_status());
    };
    let messages = vec![message];
    Ok((read::Messages { tenant, messages }, after))
}

/// Checks a `BatchGetMessageStatsRequest`.
pub(in crate::grpc) fn messages(
    request: &v1::BatchGetMessageStatsRequest,
    who: &Identity,
) -> Valid<read::Messages> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let messages = found.ids("message_ids", &request.message_ids, MessageId::new);
    let (Some(tenant), Some(messages)) = (tenant, messages) else {
        return Err(found.into_status());
    };
    Ok((read::Messages { tenant, messages }, None))
}

impl Violations {
    /// The order of a user's dialogs: none is by dialog id.
    fn order(&mut self, order_by: i32) -> Option<Option<read::DialogOrder>> {
        use v1::UserDialogOrder::{LastMessage, UnreadFirst, Unspecified};
        match v1::UserDialogOrder::try_from(order_by) {
            Ok(Unspecified) => Some(None),
            Ok(LastMessage) => Some(Some(read::DialogOrder::LastMessage)),
            Ok(UnreadFirst) => Some(Some(read::DialogOrder::UnreadFirst)),
            Err(_) => {
                let expected = format!("a UserDialogOrder, 0 to 2, found {order_by}");
                self.add("order_by", expected);
                None
            }
        }
    }
}
