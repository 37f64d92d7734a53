//! Which request stands for which call: a table, of which the router and the
//! document are made, and a function for each call.

use std::str::FromStr;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, TE,
};
use hyper::{HeaderMap, Method, StatusCode};
use prost::Message;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Extensions, Request, Response};

use super::super::edge::Edge;
use super::super::service::Counters;
use super::super::v1::counter_service_server::CounterServiceServer;
use super::super::{token, v1, validate};
use super::answer::{Answer, is_known, json};
use super::ask::{AsJson, Ask, Asked, Read, Wanted, refused};
use super::framing::framed;
use super::openapi;
use super::problem::Problem;
use crate::event::TenantId;

/// All calls behind their checks.
type Calls = Edge<AsJson<CounterServiceServer<Counters>>>;

/// Headers of a request that its call gets; all others are left out.
const PASSED_ON: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("grpc-timeout")];
const LAST_EVENT_ID: &str = "last-event-id";

/// What handlers have.
#[derive(Debug, Clone)]
struct Asking {
    calls: Calls,
    /// Bytes of a body at most.
    most_bytes: usize,
}

/// What can be asked at a path.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// The field of the JSON in its body, which is posted.
    pub(super) body: Option<&'static str>,
    /// The message of its answer, or of each event.
    pub(super) answer: &'static str,
    pub(super) is_stream: bool,
    /// The call that a request stands for, by what it brings, or what is wrong with
    /// that.
    ask: fn(Result<Given, Status>) -> Ask,
}

/// A parameter behind the question mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
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
const SINGLE: &[Parameter] = &[AFTER, STALENESS];

/// Everything that can be asked.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/stats", query: SINGLE, body: None,
        answer: "UserStats", is_stream: false, ask: user,
        summary: "A user over all dialogs: the badge" },
    Route { path: "/v1/tenants/{tenant_id}/users/stats", query: &[], body: Some("user_ids"),
        answer: "BatchGetUserStatsResponse", is_stream: false, ask: users,
        summary: "Many users at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs", body: None,
        query: &[
            parameter("page_size", "integer", "Dialogs of a page"),
            parameter("page_token", "string", "Where the last page ended"),
            parameter("unread_only", "boolean", "Only dialogs with something unread"),
            parameter("order_by", "string", "dialog_id, last_message or unread_first"),
        ],
        answer: "ListUserDialogStatsResponse", is_stream: false, ask: dialogs_of_user,
        summary: "A user in each dialog, page by page" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs/{dialog_id}", query: SINGLE, body: None,
        answer: "UserDialogStats", is_stream: false, ask: user_in_dialog,
        summary: "A user in one dialog" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/stats", query: SINGLE, body: None,
        answer: "DialogStats", is_stream: false, ask: dialog,
        summary: "A dialog" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/stats", query: &[], body: Some("dialog_ids"),
        answer: "BatchGetDialogStatsResponse", is_stream: false, ask: dialogs,
        summary: "Many dialogs at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/messages/{message_id}/stats", query: &[AFTER], body: None,
        answer: "MessageStats", is_stream: false, ask: message,
        summary: "A message: statuses, reactions, readers" },
    Route { path: "/v1/tenants/{tenant_id}/messages/stats", query: &[], body: Some("message_ids"),
        answer: "BatchGetMessageStatsResponse", is_stream: false, ask: messages,
        summary: "Many messages at once, in the order asked for" },
    Route { path: "/v1/tenants/{tenant_id}/users/{user_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchUserStatsResponse", is_stream: true, ask: watch_users,
        summary: "How a user stands, and each change" },
    Route { path: "/v1/tenants/{tenant_id}/users/events", body: None,
        query: &[parameter("user_id", "array", "Whom to watch: once for each"), INTERVAL],
        answer: "WatchUserStatsResponse", is_stream: true, ask: watch_users,
        summary: "The same of several users" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchDialogStatsResponse", is_stream: true, ask: watch_dialogs,
        summary: "How a dialog stands, and each change" },
    Route { path: "/v1/tenants/{tenant_id}/dialogs/events", body: None,
        query: &[parameter("dialog_id", "array", "Which to watch: once for each"), INTERVAL],
        answer: "WatchDialogStatsResponse", is_stream: true, ask: watch_dialogs,
        summary: "The same of several dialogs" },
];

/// All routes, to these calls.
pub(super) fn router(calls: Calls, most_bytes: usize) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = async move |State(asking): State<Asking>,
                                  path: Paths,
                                  query: Queries,
                                  request: Incoming| {
            asking.answer(route, (path, query), request).await
        };
        let handler = match route.body {
            Some(_) => post(handler),
            None => get(handler),
        };
        router = router.route(route.path, handler);
    }
    router
        .route("/v1/openapi.json", get(openapi::serve))
        .fallback(async || {
            answered(Err(Status::unimplemented(
                "no such path: /v1/openapi.json has those that there are",
            )))
        })
        .method_not_allowed_fallback(async || {
            let status = Status::unimplemented("no such method of this path");
            Problem::from(status)
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
                .response()
        })
        .with_state(Asking { calls, most_bytes })
}

type Values = Vec<(String, String)>;
type Paths = Result<Path<Values>, PathRejection>;
type Queries = Result<Query<Values>, QueryRejection>;
type Incoming = axum::extract::Request;

/// What a request brings beside its body: what stands in its path and behind the
/// question mark, said once each unless it is a list.
#[derive(Debug)]
struct Given {
    values: Values,
    /// The token to go on from, which a browser sends by itself.
    last_event_id: String,
    /// Bytes of its body at most.
    most_bytes: usize,
}

impl Given {
    /// What a request brings to a route, which has to know all of it.
    fn new(
        route: &Route,
        (path, query): (Paths, Queries),
        (headers, most_bytes): (&HeaderMap, usize),
    ) -> Result<Self, Status> {
        let wrong = |what: &dyn std::fmt::Display| Status::invalid_argument(what.to_string());
        let Path(mut values) = path.map_err(|error| wrong(&error))?;
        let Query(query) = query.map_err(|error| wrong(&error))?;
        let is_known = |name: &str| route.query.iter().any(|known| known.name == name);
        if let Some((name, _)) = query.iter().find(|(name, _)| !is_known(name)) {
            return Err(unknown(name));
        }
        values.extend(query);
        let last_event_id = headers.get(LAST_EVENT_ID);
        let last_event_id = last_event_id.and_then(|id| id.to_str().ok());
        Ok(Self {
            values,
            last_event_id: last_event_id.unwrap_or_default().to_owned(),
            most_bytes,
        })
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, Status> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            count => Err(validate::violated(
                name,
                format!("once at most, found {count} times"),
            )),
        }
    }

    fn all(&mut self, name: &str) -> Vec<String> {
        let of_name = self.values.extract_if(.., |(key, _)| key == name);
        of_name.map(|(_, value)| value).collect()
    }

    /// At least one: nobody is added later, as a client of gRPC may.
    fn some(&mut self, name: &str) -> Result<Vec<String>, Status> {
        let values = self.all(name);
        match values.is_empty() {
            true => Err(validate::violated(name, "at least one, found none".into())),
            false => Ok(values),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, Status> {
        Ok(self.take(name)?.unwrap_or_default())
    }

    fn parsed<T: FromStr + Default>(&mut self, name: &str, expected: &str) -> Result<T, Status> {
        match self.take(name)? {
            None => Ok(T::default()),
            Some(text) => text
                .parse()
                .map_err(|_| validate::violated(name, format!("{expected}, found {text:?}"))),
        }
    }

    fn number(&mut self, name: &str) -> Result<i32, Status> {
        self.parsed(name, "a number")
    }

    /// The message that is made of it, which must need all that is given.
    fn message<M>(
        mut self,
        make: impl FnOnce(&mut Self) -> Result<M, Status>,
    ) -> Result<M, Status> {
        let message = make(&mut self)?;
        match self.values.first() {
            None => Ok(message),
            Some((name, _)) => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> Status {
    validate::violated(name, "nothing: there is no such parameter".into())
}

impl Asking {
    /// Makes the call that a request stands for. What is wrong with the request is
    /// told by that, to those who may ask.
    async fn answer(
        self,
        route: &Route,
        given: (Paths, Queries),
        request: Incoming,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let beside = (&parts.headers, self.most_bytes);
        let ask = (route.ask)(Given::new(route, given, beside));
        let answer = self
            .called((&parts.headers, &parts.extensions), body, ask)
            .await;
        let response = answered(answer);
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        let known = parts.headers.get_all(IF_NONE_MATCH);
        match is_read && is_known(response.headers().get(ETAG), known) {
            true => unchanged(response),
            false => response,
        }
    }

    async fn called(
        self,
        (headers, extensions): (&HeaderMap, &Extensions),
        body: axum::body::Body,
        ask: Ask,
    ) -> Result<Response<Body>, Status> {
        let mut call = Request::new(Body::new(body));
        let path = ask.path().parse();
        *call.uri_mut() = path.map_err(|_| Status::internal("the path of a method"))?;
        *call.method_mut() = Method::POST;
        for name in PASSED_ON {
            for value in headers.get_all(&name) {
                call.headers_mut().append(name.clone(), value.clone());
            }
        }
        let own = call.headers_mut();
        own.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        own.insert(TE, HeaderValue::from_static("trailers"));
        *call.extensions_mut() = extensions.clone();
        call.extensions_mut().insert(ask);
        let mut calls = self.calls;
        let Ok(answer) = calls.call(call).await;
        match refused(answer.headers()) {
            Some(status) => Err(status),
            None => Ok(answer),
        }
    }
}

fn answered(answer: Result<Response<Body>, Status>) -> Response<Body> {
    answer.unwrap_or_else(|status| Problem::from(status).response())
}

/// What a client is told that has it already.
fn unchanged(mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().remove(CONTENT_TYPE);
    response.map(|_| Body::empty())
}

fn user(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        Ok(v1::GetUserStatsRequest {
            tenant_id: given.text("tenant_id")?,
            user_id: given.text("user_id")?,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        })
    };
    Ask::one::<v1::UserStats>(
        "GetUserStats",
        given.and_then(|given| given.message(message)),
    )
}

fn user_in_dialog(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        Ok(v1::GetUserDialogStatsRequest {
            tenant_id: given.text("tenant_id")?,
            user_id: given.text("user_id")?,
            dialog_id: given.text("dialog_id")?,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        })
    };
    Ask::one::<v1::UserDialogStats>(
        "GetUserDialogStats",
        given.and_then(|given| given.message(message)),
    )
}

fn dialogs_of_user(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        Ok(v1::ListUserDialogStatsRequest {
            tenant_id: given.text("tenant_id")?,
            user_id: given.text("user_id")?,
            page_size: given.number("page_size")?,
            page_token: given.text("page_token")?,
            unread_only: given.parsed("unread_only", "true or false")?,
            order_by: order(&given.text("order_by")?)?,
        })
    };
    Ask::one::<v1::ListUserDialogStatsResponse>(
        "ListUserDialogStats",
        given.and_then(|given| given.message(message)),
    )
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

fn dialog(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        Ok(v1::GetDialogStatsRequest {
            tenant_id: given.text("tenant_id")?,
            dialog_id: given.text("dialog_id")?,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        })
    };
    Ask::one::<v1::DialogStats>(
        "GetDialogStats",
        given.and_then(|given| given.message(message)),
    )
}

fn message(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        Ok(v1::GetMessageStatsRequest {
            tenant_id: given.text("tenant_id")?,
            message_id: given.text("message_id")?,
            after_event_id: given.text("after_event_id")?,
        })
    };
    Ask::one::<v1::MessageStats>(
        "GetMessageStats",
        given.and_then(|given| given.message(message)),
    )
}

/// A batch, whose ids are in the body.
fn batch<A: Answer>(method: &'static str, given: Result<Given, Status>, read: Read) -> Ask {
    let message = given.and_then(|given| {
        let most = given.most_bytes;
        let tenant = given.message(|given| given.text("tenant_id"))?;
        Ok(Asked::InBody(tenant, most, read))
    });
    Ask {
        method,
        message,
        answer: Wanted::One(json::<A>),
    }
}

/// The message that the body of a batch has.
fn body<M: Message + DeserializeOwned>(bytes: &[u8]) -> Result<M, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::invalid_argument(format!("the body of the request: {error}")))
}

fn users(given: Result<Given, Status>) -> Ask {
    let read: Read = |tenant_id, bytes| {
        let request: v1::BatchGetUserStatsRequest = body(bytes)?;
        Ok(framed(&v1::BatchGetUserStatsRequest {
            tenant_id,
            ..request
        }))
    };
    batch::<v1::BatchGetUserStatsResponse>("BatchGetUserStats", given, read)
}

fn dialogs(given: Result<Given, Status>) -> Ask {
    let read: Read = |tenant_id, bytes| {
        let request: v1::BatchGetDialogStatsRequest = body(bytes)?;
        Ok(framed(&v1::BatchGetDialogStatsRequest {
            tenant_id,
            ..request
        }))
    };
    batch::<v1::BatchGetDialogStatsResponse>("BatchGetDialogStats", given, read)
}

fn messages(given: Result<Given, Status>) -> Ask {
    let read: Read = |tenant_id, bytes| {
        let request: v1::BatchGetMessageStatsRequest = body(bytes)?;
        Ok(framed(&v1::BatchGetMessageStatsRequest {
            tenant_id,
            ..request
        }))
    };
    batch::<v1::BatchGetMessageStatsResponse>("BatchGetMessageStats", given, read)
}

/// Where a watch is to go on from. A token that is of no use, of another version
/// of the service say, has everything told anew: a browser that is refused does
/// not come back.
fn resume_token(tenant: &str, given: &Given) -> String {
    let id = given.last_event_id.as_str();
    let tenant = TenantId::new(tenant).ok();
    let since = tenant.and_then(|tenant| token::resumed(&tenant, id));
    since.map_or(String::new(), |_| id.to_owned())
}

fn watch_users(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        let tenant_id = given.text("tenant_id")?;
        Ok(v1::WatchUserStatsRequest {
            resume_token: resume_token(&tenant_id, given),
            tenant_id,
            user_ids: given.some("user_id")?,
            min_interval_ms: given.number("min_interval_ms")?,
        })
    };
    let message = given.and_then(|given| given.message(message));
    Ask::events::<v1::WatchUserStatsResponse>("WatchUserStats", message)
}

fn watch_dialogs(given: Result<Given, Status>) -> Ask {
    let message = |given: &mut Given| {
        let tenant_id = given.text("tenant_id")?;
        Ok(v1::WatchDialogStatsRequest {
            resume_token: resume_token(&tenant_id, given),
            tenant_id,
            dialog_ids: given.some("dialog_id")?,
            min_interval_ms: given.number("min_interval_ms")?,
        })
    };
    let message = given.and_then(|given| given.message(message));
    Ask::events::<v1::WatchDialogStatsResponse>("WatchDialogStats", message)
}
