//! The messages of calls, made of the parameters of requests.

use tonic::Status;

use super::super::{v1, validate};
use super::parameters::Parameters;

pub(super) fn user(given: &mut Parameters) -> Result<v1::GetUserStatsRequest, Status> {
    Ok(v1::GetUserStatsRequest {
        tenant_id: given.text("tenant_id")?,
        user_id: given.text("user_id")?,
        after_event_id: given.text("after_event_id")?,
        max_staleness_ms: given.number("max_staleness_ms")?,
    })
}

pub(super) fn user_in_dialog(
    given: &mut Parameters,
) -> Result<v1::GetUserDialogStatsRequest, Status> {
    Ok(v1::GetUserDialogStatsRequest {
        tenant_id: given.text("tenant_id")?,
        user_id: given.text("user_id")?,
        dialog_id: given.text("dialog_id")?,
        after_event_id: given.text("after_event_id")?,
        max_staleness_ms: given.number("max_staleness_ms")?,
    })
}

pub(super) fn dialogs_of_user(
    given: &mut Parameters,
) -> Result<v1::ListUserDialogStatsRequest, Status> {
    Ok(v1::ListUserDialogStatsRequest {
        tenant_id: given.text("tenant_id")?,
        user_id: given.text("user_id")?,
        page_size: given.number("page_size")?,
        page_token: given.text("page_token")?,
        unread_only: given.parsed("unread_only", "true or false")?,
        order_by: order(&given.text("order_by")?)?,
    })
}

/// An order by its name in a query: that of the enumeration, shorter, and
/// `dialog_id` for the one that is unspecified there.
fn order(name: &str) -> Result<i32, Status> {
    let order = match name {
        "" | "dialog_id" => v1::UserDialogOrder::Unspecified,
        "last_message" => v1::UserDialogOrder::LastMessage,
        "unread_first" => v1::UserDialogOrder::UnreadFirst,
        other => {
            let expected = "dialog_id, last_message or unread_first";
            return Err(validate::violated(
                "order_by",
                format!("{expected}, found {other:?}"),
            ));
        }
    };
    Ok(order.into())
}

pub(super) fn dialog(given: &mut Parameters) -> Result<v1::GetDialogStatsRequest, Status> {
    Ok(v1::GetDialogStatsRequest {
        tenant_id: given.text("tenant_id")?,
        dialog_id: given.text("dialog_id")?,
        after_event_id: given.text("after_event_id")?,
        max_staleness_ms: given.number("max_staleness_ms")?,
    })
}

pub(super) fn message(given: &mut Parameters) -> Result<v1::GetMessageStatsRequest, Status> {
    Ok(v1::GetMessageStatsRequest {
        tenant_id: given.text("tenant_id")?,
        message_id: given.text("message_id")?,
        after_event_id: given.text("after_event_id")?,
    })
}

pub(super) fn watched_users(given: &mut Parameters) -> Result<v1::WatchUserStatsRequest, Status> {
    let tenant_id = given.text("tenant_id")?;
    Ok(v1::WatchUserStatsRequest {
        resume_token: given.resume_token(&tenant_id),
        tenant_id,
        user_ids: given.list("user_id")?,
        min_interval_ms: given.number("min_interval_ms")?,
    })
}

pub(super) fn watched_dialogs(
    given: &mut Parameters,
) -> Result<v1::WatchDialogStatsRequest, Status> {
    let tenant_id = given.text("tenant_id")?;
    Ok(v1::WatchDialogStatsRequest {
        resume_token: given.resume_token(&tenant_id),
        tenant_id,
        dialog_ids: given.list("dialog_id")?,
        min_interval_ms: given.number("min_interval_ms")?,
    })
}
