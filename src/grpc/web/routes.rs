//! Which request stands for which call.

use std::str::FromStr;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, ETAG, HeaderName, IF_NONE_MATCH};
use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::{Code, Status};

use super::super::edge::Edge;
use super::super::service::Counters;
use super::super::v1::counter_service_server::CounterServiceServer;
use super::super::{token, v1, validate};
use super::answer::{is_known, json};
use super::ask::{AsJson, Ask, Asked, Read, Wanted, refused};
use super::events::{Resumable, event};
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

/// A path, and what it takes beside it, for the document that describes it. What
/// is answered stands in [`router`] and in the handlers: change both.
pub(super) struct Route {
    pub(super) verb: &'static str,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// The field of the JSON in its body.
    pub(super) body: Option<&'static str>,
    /// The message of its answer, or of each event.
    pub(super) answer: &'static str,
    pub(super) is_stream: bool,
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

/// Every path that the document describes.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/users/{user_id}/stats", query: SINGLE, body: None,
        answer: "UserStats", is_stream: false, summary: "A user over all dialogs: the badge" },
    Route { verb: "post", path: "/v1/tenants/{tenant_id}/users/stats", query: &[], body: Some("user_ids"),
        answer: "BatchGetUserStatsResponse", is_stream: false, summary: "Many users at once, in the order asked for" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs", body: None,
        query: &[
            parameter("page_size", "integer", "Dialogs of a page"),
            parameter("page_token", "string", "Where the last page ended"),
            parameter("unread_only", "boolean", "Only dialogs with something unread"),
            parameter("order_by", "string", "dialog_id, last_message or unread_first"),
        ],
        answer: "ListUserDialogStatsResponse", is_stream: false, summary: "A user in each dialog, page by page" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/users/{user_id}/dialogs/{dialog_id}", query: SINGLE, body: None,
        answer: "UserDialogStats", is_stream: false, summary: "A user in one dialog" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/stats", query: SINGLE, body: None,
        answer: "DialogStats", is_stream: false, summary: "A dialog" },
    Route { verb: "post", path: "/v1/tenants/{tenant_id}/dialogs/stats", query: &[], body: Some("dialog_ids"),
        answer: "BatchGetDialogStatsResponse", is_stream: false, summary: "Many dialogs at once, in the order asked for" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/messages/{message_id}/stats", query: &[AFTER], body: None,
        answer: "MessageStats", is_stream: false, summary: "A message: statuses, reactions, readers" },
    Route { verb: "post", path: "/v1/tenants/{tenant_id}/messages/stats", query: &[], body: Some("message_ids"),
        answer: "BatchGetMessageStatsResponse", is_stream: false, summary: "Many messages at once, in the order asked for" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/users/{user_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchUserStatsResponse", is_stream: true, summary: "How a user stands, and each change" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/users/events", body: None,
        query: &[parameter("user_id", "array", "Whom to watch: once for each"), INTERVAL],
        answer: "WatchUserStatsResponse", is_stream: true, summary: "The same of several users" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/dialogs/{dialog_id}/events", query: &[INTERVAL], body: None,
        answer: "WatchDialogStatsResponse", is_stream: true, summary: "How a dialog stands, and each change" },
    Route { verb: "get", path: "/v1/tenants/{tenant_id}/dialogs/events", body: None,
        query: &[parameter("dialog_id", "array", "Which to watch: once for each"), INTERVAL],
        answer: "WatchDialogStatsResponse", is_stream: true, summary: "The same of several dialogs" },
];

/// All routes, to these calls.
pub(super) fn router(calls: Calls, most_bytes: usize) -> Router {
    Router::new()
        .route("/v1/tenants/{tenant}/users/{user}/stats", get(user))
        .route("/v1/tenants/{tenant}/users/stats", post(users))
        .route(
            "/v1/tenants/{tenant}/users/{user}/dialogs",
            get(dialogs_of_user),
        )
        .route(
            "/v1/tenants/{tenant}/users/{user}/dialogs/{dialog}",
            get(user_in_dialog),
        )
        .route("/v1/tenants/{tenant}/dialogs/{dialog}/stats", get(dialog))
        .route("/v1/tenants/{tenant}/dialogs/stats", post(dialogs))
        .route(
            "/v1/tenants/{tenant}/messages/{message}/stats",
            get(message),
        )
        .route("/v1/tenants/{tenant}/messages/stats", post(messages))
        .route("/v1/tenants/{tenant}/users/{user}/events", get(watch_user))
        .route("/v1/tenants/{tenant}/users/events", get(watch_users))
        .route(
            "/v1/tenants/{tenant}/dialogs/{dialog}/events",
            get(watch_dialog),
        )
        .route("/v1/tenants/{tenant}/dialogs/events", get(watch_dialogs))
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

/// What is behind the question mark. All of it must be known, and said once
/// unless it is a list.
#[derive(Debug)]
struct Given(Vec<(String, String)>);

impl Given {
    fn take(&mut self, name: &str) -> Result<Option<String>, Status> {
        let mut values = self.take_all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            count => Err(validate::violated(
                name,
                format!("once at most, found {count} times"),
            )),
        }
    }

    fn take_all(&mut self, name: &str) -> Vec<String> {
        let of_name = self.0.extract_if(.., |(key, _)| key == name);
        of_name.map(|(_, value)| value).collect()
    }

    /// At least one: nobody is added later, as a client of gRPC may.
    fn take_some(&mut self, name: &str) -> Result<Vec<String>, Status> {
        let values = self.take_all(name);
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

    fn end(self) -> Result<(), Status> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(validate::violated(
                name,
                "nothing: there is no such parameter".into(),
            )),
        }
    }
}

type Pairs = Query<Vec<(String, String)>>;
type Paths<T> = Result<Path<T>, axum::extract::rejection::PathRejection>;
type Queries = Result<Pairs, axum::extract::rejection::QueryRejection>;
type Incoming = axum::extract::Request;

/// What a request brings beside its body.
fn parts<T>(path: Paths<T>, query: Queries) -> Result<(T, Given), Status> {
    let wrong = |what: &dyn std::fmt::Display| Status::invalid_argument(what.to_string());
    let Path(path) = path.map_err(|error| wrong(&error))?;
    let Query(pairs) = query.map_err(|error| wrong(&error))?;
    Ok((path, Given(pairs)))
}

impl Asking {
    /// Makes the call that a request stands for. What is wrong with the request is
    /// told by that, to those who may ask.
    async fn answer(self, request: Incoming, ask: Ask) -> Response<Body> {
        let (parts, body) = request.into_parts();
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
        own.insert(
            "content-type",
            hyper::header::HeaderValue::from_static("application/grpc"),
        );
        own.insert("te", hyper::header::HeaderValue::from_static("trailers"));
        *call.extensions_mut() = extensions.clone();
        call.extensions_mut().insert(ask);
        let mut calls = self.calls;
        let answer = match calls.call(call).await {
            Ok(answer) => answer,
            Err(impossible) => match impossible {},
        };
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
    response.headers_mut().remove(hyper::header::CONTENT_TYPE);
    response.map(|_| Body::empty())
}

async fn user(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant_id, user_id), mut given)| {
        let message = v1::GetUserStatsRequest {
            tenant_id,
            user_id,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        };
        given.end()?;
        Ok(message)
    });
    let ask = Ask::one::<v1::UserStats>("GetUserStats", message);
    asking.answer(request, ask).await
}

async fn user_in_dialog(
    State(asking): State<Asking>,
    path: Paths<(String, String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant_id, user_id, dialog_id), mut given)| {
        let message = v1::GetUserDialogStatsRequest {
            tenant_id,
            user_id,
            dialog_id,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        };
        given.end()?;
        Ok(message)
    });
    let ask = Ask::one::<v1::UserDialogStats>("GetUserDialogStats", message);
    asking.answer(request, ask).await
}

async fn dialogs_of_user(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant_id, user_id), mut given)| {
        let message = v1::ListUserDialogStatsRequest {
            tenant_id,
            user_id,
            page_size: given.number("page_size")?,
            page_token: given.text("page_token")?,
            unread_only: given.parsed("unread_only", "true or false")?,
            order_by: order(&given.text("order_by")?)?,
        };
        given.end()?;
        Ok(message)
    });
    let ask = Ask::one::<v1::ListUserDialogStatsResponse>("ListUserDialogStats", message);
    asking.answer(request, ask).await
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

async fn dialog(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant_id, dialog_id), mut given)| {
        let message = v1::GetDialogStatsRequest {
            tenant_id,
            dialog_id,
            after_event_id: given.text("after_event_id")?,
            max_staleness_ms: given.number("max_staleness_ms")?,
        };
        given.end()?;
        Ok(message)
    });
    let ask = Ask::one::<v1::DialogStats>("GetDialogStats", message);
    asking.answer(request, ask).await
}

async fn message(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant_id, message_id), mut given)| {
        let message = v1::GetMessageStatsRequest {
            tenant_id,
            message_id,
            after_event_id: given.text("after_event_id")?,
        };
        given.end()?;
        Ok(message)
    });
    let ask = Ask::one::<v1::MessageStats>("GetMessageStats", message);
    asking.answer(request, ask).await
}

/// The body of a batch.
fn body<B: DeserializeOwned>(bytes: &[u8]) -> Result<B, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::new(
            Code::InvalidArgument,
            format!("the body of the request: {error}"),
        )
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserIds {
    user_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DialogIds {
    dialog_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageIds {
    message_ids: Vec<String>,
}

fn batch_of_users(tenant: &str, bytes: &[u8]) -> Result<Bytes, Status> {
    let UserIds { user_ids } = body(bytes)?;
    let tenant_id = tenant.to_owned();
    Ok(framed(&v1::BatchGetUserStatsRequest {
        tenant_id,
        user_ids,
    }))
}

fn batch_of_dialogs(tenant: &str, bytes: &[u8]) -> Result<Bytes, Status> {
    let DialogIds { dialog_ids } = body(bytes)?;
    let tenant_id = tenant.to_owned();
    Ok(framed(&v1::BatchGetDialogStatsRequest {
        tenant_id,
        dialog_ids,
    }))
}

fn batch_of_messages(tenant: &str, bytes: &[u8]) -> Result<Bytes, Status> {
    let MessageIds { message_ids } = body(bytes)?;
    let tenant_id = tenant.to_owned();
    Ok(framed(&v1::BatchGetMessageStatsRequest {
        tenant_id,
        message_ids,
    }))
}

impl Asking {
    /// Answers a batch, whose ids are in the body.
    async fn batch(
        self,
        path: Paths<String>,
        query: Queries,
        request: Incoming,
        method: &'static str,
        (read, answer): (Read, Wanted),
    ) -> Response<Body> {
        let most = self.most_bytes;
        let message = parts(path, query).and_then(|(tenant, given)| {
            given.end()?;
            Ok(Asked::InBody(tenant, most, read))
        });
        let ask = Ask {
            method,
            message,
            answer,
        };
        self.answer(request, ask).await
    }

    /// Answers with events.
    async fn watch<W: Resumable, M: prost::Message>(
        self,
        request: Incoming,
        method: &'static str,
        message: Result<M, Status>,
    ) -> Response<Body> {
        let ask = Ask {
            method,
            message: message.map(|message| Asked::Given(framed(&message))),
            answer: Wanted::Events(event::<W>),
        };
        self.answer(request, ask).await
    }
}

async fn users(
    State(asking): State<Asking>,
    path: Paths<String>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let answer = Wanted::One(json::<v1::BatchGetUserStatsResponse>);
    let how = (batch_of_users as _, answer);
    asking
        .batch(path, query, request, "BatchGetUserStats", how)
        .await
}

async fn dialogs(
    State(asking): State<Asking>,
    path: Paths<String>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let answer = Wanted::One(json::<v1::BatchGetDialogStatsResponse>);
    let how = (batch_of_dialogs as _, answer);
    asking
        .batch(path, query, request, "BatchGetDialogStats", how)
        .await
}

async fn messages(
    State(asking): State<Asking>,
    path: Paths<String>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let answer = Wanted::One(json::<v1::BatchGetMessageStatsResponse>);
    let how = (batch_of_messages as _, answer);
    asking
        .batch(path, query, request, "BatchGetMessageStats", how)
        .await
}

/// The token to go on from, which a browser sends by itself. One that is of no
/// use, of another version of the service say, has everything told anew: a
/// browser that is refused does not come back.
fn last_event_id(tenant: &str, request: &Incoming) -> String {
    let id = request.headers().get(LAST_EVENT_ID);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let tenant = TenantId::new(tenant).ok();
    let since = tenant.and_then(|tenant| token::resumed(&tenant, id));
    since.map_or(String::new(), |_| id.to_owned())
}

/// The message of a watch of users.
fn watched_users(
    (tenant_id, user_ids): (String, Vec<String>),
    mut given: Given,
    request: &Incoming,
) -> Result<v1::WatchUserStatsRequest, Status> {
    let message = v1::WatchUserStatsRequest {
        resume_token: last_event_id(&tenant_id, request),
        tenant_id,
        user_ids,
        min_interval_ms: given.number("min_interval_ms")?,
    };
    given.end()?;
    Ok(message)
}

/// The message of a watch of dialogs.
fn watched_dialogs(
    (tenant_id, dialog_ids): (String, Vec<String>),
    mut given: Given,
    request: &Incoming,
) -> Result<v1::WatchDialogStatsRequest, Status> {
    let message = v1::WatchDialogStatsRequest {
        resume_token: last_event_id(&tenant_id, request),
        tenant_id,
        dialog_ids,
        min_interval_ms: given.number("min_interval_ms")?,
    };
    given.end()?;
    Ok(message)
}

async fn watch_user(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query)
        .and_then(|((tenant, user), given)| watched_users((tenant, vec![user]), given, &request));
    asking
        .watch::<v1::WatchUserStatsResponse, _>(request, "WatchUserStats", message)
        .await
}

async fn watch_users(
    State(asking): State<Asking>,
    path: Paths<String>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|(tenant, mut given)| {
        let users = given.take_some("user_id")?;
        watched_users((tenant, users), given, &request)
    });
    asking
        .watch::<v1::WatchUserStatsResponse, _>(request, "WatchUserStats", message)
        .await
}

async fn watch_dialog(
    State(asking): State<Asking>,
    path: Paths<(String, String)>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|((tenant, dialog), given)| {
        watched_dialogs((tenant, vec![dialog]), given, &request)
    });
    asking
        .watch::<v1::WatchDialogStatsResponse, _>(request, "WatchDialogStats", message)
        .await
}

async fn watch_dialogs(
    State(asking): State<Asking>,
    path: Paths<String>,
    query: Queries,
    request: Incoming,
) -> Response<Body> {
    let message = parts(path, query).and_then(|(tenant, mut given)| {
        let dialogs = given.take_some("dialog_id")?;
        watched_dialogs((tenant, dialogs), given, &request)
    });
    asking
        .watch::<v1::WatchDialogStatsResponse, _>(request, "WatchDialogStats", message)
        .await
}
