//! Which request stands for the call of which method: one table, of which the
//! router and the document are made.

use axum::Router;
use axum::routing::{MethodRouter, get};
use hyper::StatusCode;
use tonic::Status;

use super::super::edge::Checks;
use super::super::v1;
use super::super::v1::counter_service_server::CounterService as _;
use super::call::{Site, checked, read, read_batch, watch};
use super::problem::Problem;
use super::{messages, openapi};

/// A path that can be asked, and the method of gRPC that answers.
pub(super) struct Route {
    /// The path, with the names of its parameters in braces.
    pub(super) path: &'static str,
    /// The method of `CounterService`.
    pub(super) method: &'static str,
    /// One line for the document.
    pub(super) summary: &'static str,
    /// The parameters in the query.
    pub(super) query: &'static [Parameter],
    /// The field of the JSON in its body, which is posted.
    pub(super) body: Option<&'static str>,
    /// The message of its answer, or of each event.
    pub(super) answer: &'static str,
    /// Whether the answer is a stream of events.
    pub(super) is_stream: bool,
    /// Makes what handles a request to this route.
    handlers: fn(&'static Route) -> MethodRouter<Site>,
}

/// A parameter in the query of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The type of JSON that it has in the document.
    pub(super) kind: &'static str,
    /// What it means, for the document.
    pub(super) meaning: &'static str,
}

const fn parameter(name: &'static str, kind: &'static str, meaning: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        meaning,
    }
}

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

/// Makes the router of all routes: each has these checks in front.
pub(super) fn router(site: Site, checks: &Checks) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handlers = checked(route, checks, (route.handlers)(route));
        router = router.route(route.path, handlers);
    }
    router
        .route("/v1/openapi.json", get(openapi::serve))
        .fallback(async || {
            Problem::from(Status::unimplemented(
                "no such path: /v1/openapi.json has those that there are",
            ))
        })
        .method_not_allowed_fallback(async || {
            let status = Status::unimplemented("no such method of this path");
            Problem::from(status).with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(site)
}
