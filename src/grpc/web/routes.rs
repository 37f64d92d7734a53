//! Which request stands for the call of which method: one table, of which the
//! router and the document are made.

use super::super::v1;
use super::super::v1::counter_service_server::CounterService as _;
use super::call::{read, read_batch, watch};
use super::messages;
use super::route::{Parameter, Route, parameter};

const AFTER: Parameter = parameter(
    "after_event_id",
    "string",
    "The answer includes the effect of this event; it is waited for until the deadline",
);
const STALENESS: Parameter = parameter(
    "max_staleness_ms",
    "integer",
    "How old the answer may be, in milliseconds; 0: not at all",
);
const INTERVAL: Parameter = parameter(
    "min_interval_ms",
    "integer",
    "Between two updates about one subject, in milliseconds",
);
/// The parameters of every read of one thing.
const ONE_THING: &[Parameter] = &[AFTER, STALENESS];

/// Everything that can be asked.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/stats", query: ONE_THING, body: None,
        answer: "UserStats", is_stream: false, method: "GetUserStats",
        handlers: |route| read(route, messages::user, |counters, call| counters.get_user_stats(call)),
        summary: "A user over all dialogs: the badge" },
    Route { path: "/v1/tenants/{tenant_id}/users/stats", query: &[], body: Some("user_ids"),
        answer: "BatchGetUserStatsResponse", is_stream: false, method: "BatchGetUserStats",
        handlers: |route| read_batch(route, |of: &mut v1::BatchGetUserStatsRequest, tenant| of.tenant_id = tenant,
            |counters, call| counters.batch_get_user_stats(call)),
        summary: "Many users at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs", body: None,
        query: &[
            parameter("page_size", "integer", "Dialogs of a page"),
            parameter("page_token", "string", "Where the last page ended"),
            parameter("unread_only", "boolean", "Only dialogs with something unread"),
            parameter("order_by", "string", "dialog_id, last_message or unread_first"),
        ],
        answer: "ListUserDialogStatsResponse", is_stream: false, method: "ListUserDialogStats",
        handlers: |route| read(route, messages::dialogs_of_user, |counters, call| counters.list_user_dialog_stats(call)),
        summary: "A user in each dialog, page by page" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs/{dialog_id}", query: ONE_THING, body: None,
        answer: "UserDialogStats", is_stream: false, method: "GetUserDialogStats",
        handlers: |route| read(route, messages::user_in_dialog, |counters, call| counters.get_user_dialog_stats(call)),
        summary: "A user in one dialog" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/stats", query: ONE_THING, body: None,
        answer: "DialogStats", is_stream: false, method: "GetDialogStats",
        handlers: |route| read(route, messages::dialog, |counters, call| counters.get_dialog_stats(call)),
        summary: "A dialog" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/stats", query: &[], body: Some("dialog_ids"),
        answer: "BatchGetDialogStatsResponse", is_stream: false, method: "BatchGetDialogStats",
        handlers: |route| read_batch(route, |of: &mut v1::BatchGetDialogStatsRequest, tenant| of.tenant_id = tenant,
            |counters, call| counters.batch_get_dialog_stats(call)),
        summary: "Many dialogs at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/messages/{message_id}/stats", query: &[AFTER], body: None,
        answer: "MessageStats", is_stream: false, method: "GetMessageStats",
        handlers: |route| read(route, messages::message, |counters, call| counters.get_message_stats(call)),
        summary: "A message: statuses, reactions, readers" },
    Route { path: "/v1/tenants/{tenant_id}/messages/stats", query: &[], body: Some("message_ids"),
        answer: "BatchGetMessageStatsResponse", is_stream: false, method: "BatchGetMessageStats",
        handlers: |route| read_batch(route, |of: &mut v1::BatchGetMessageStatsRequest, tenant| of.tenant_id = tenant,
            |counters, call| counters.batch_get_message_stats(call)),
        summary: "Many messages at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchUserStatsResponse", is_stream: true, method: "WatchUserStats",
        handlers: |route| watch(route, messages::watched_users, |counters, call| counters.watch_user_stats(call)),
        summary: "How a user stands, and each change" },
    Route { path: "/v1/tenants/{tenant_id}/users/events", body: None,
        query: &[parameter("user_id", "array", "Whom to watch: once for each"), INTERVAL],
        answer: "WatchUserStatsResponse", is_stream: true, method: "WatchUserStats",
        handlers: |route| watch(route, messages::watched_users, |counters, call| counters.watch_user_stats(call)),
        summary: "The same of several users" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchDialogStatsResponse", is_stream: true, method: "WatchDialogStats",
        handlers: |route| watch(route, messages::watched_dialogs, |counters, call| counters.watch_dialog_stats(call)),
        summary: "How a dialog stands, and each change" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/events", body: None,
        query: &[parameter("dialog_id", "array", "Which to watch: once for each"), INTERVAL],
        answer: "WatchDialogStatsResponse", is_stream: true, method: "WatchDialogStats",
        handlers: |route| watch(route, messages::watched_dialogs, |counters, call| counters.watch_dialog_stats(call)),
        summary: "The same of several dialogs" },
];
