//! A request over HTTP as the call of a gRPC method, and the method's answer as
//! JSON or as server-sent events.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use prost::Message;
use serde::de::DeserializeOwned;
use tonic::codegen::http;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::super::admission::Sharer;
use super::super::edge::Checks;
use super::super::guard::account;
use super::super::limits::shed;
use super::super::service::Counters;
use super::super::v1::counter_service_server::SERVICE_NAME;
use super::super::watches::Messages;
use super::answer::{Answer, Json, is_known};
use super::events::{self, Resumable};
use super::parameters::{Hidden, LAST_EVENT_ID, Parameters, Paths};
use super::problem::Problem;
use super::route::Route;
use super::site::Site;
use super::size::{check_answer, check_request};

/// The headers of a request that its call gets; all others are left out.
const PASSED_ON: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("grpc-timeout")];

/// A method of [`Counters`], as gRPC calls it too.
pub(super) type CounterMethod<M, A> =
    for<'a> fn(&'a Counters, tonic::Request<M>) -> BoxFuture<'a, Answered<A>>;
/// The result of a method.
type Answered<A> = Result<tonic::Response<A>, Status>;

/// Makes the message of a call from the parameters of a request.
pub(super) type FromParameters<M> = fn(&mut Parameters) -> Result<M, Status>;

/// Handles `GET` with the answer of a method as JSON.
pub(super) fn read<M, A>(
    route: &'static Route,
    message: FromParameters<M>,
    method: CounterMethod<M, A>,
) -> MethodRouter<Site>
where
    M: Message + 'static,
    A: Answer + 'static,
{
    get(
        async move |State(site): State<Site>, path: Paths, request: Request| {
            let message = Parameters::new(route, path, &request)?.message(message)?;
            site.answer(call(request, message), method).await
        },
    )
}

/// Handles `POST` with the answer of a method as JSON. The message is the JSON in
/// the body, to which `set_tenant` adds the tenant in the path.
pub(super) fn read_batch<M, A>(
    route: &'static Route,
    set_tenant: fn(&mut M, String),
    method: CounterMethod<M, A>,
) -> MethodRouter<Site>
where
    M: Message + DeserializeOwned + 'static,
    A: Answer + 'static,
{
    post(
        async move |State(site): State<Site>, path: Paths, request: Request| {
            let parameters = Parameters::new(route, path, &request)?;
            let tenant = parameters.message(|parameters| parameters.text("tenant_id"))?;
            let (parts, body) = request.into_parts();
            let body = whole(body, site.max_request_bytes).await?;
            let mut message: M = serde_json::from_slice(&body).map_err(|e| bad_body(&e))?;
            set_tenant(&mut message, tenant);
            let request = Request::from_parts(parts, Body::empty());
            site.answer(call(request, message), method).await
        },
    )
}

/// Handles `GET` with the messages of a stream as server-sent events.
pub(super) fn watch<M, A>(
    route: &'static Route,
    message: FromParameters<M>,
    method: CounterMethod<M, Messages<A>>,
) -> MethodRouter<Site>
where
    M: Message + 'static,
    A: Resumable + 'static,
{
    get(
        async move |State(site): State<Site>, path: Paths, request: Request| {
            let message = Parameters::new(route, path, &request)?.message(message)?;
            let caller = Sharer::Caller(account(request.extensions()));
            let place = site.streams.take(vec![caller]).map_err(shed)?;
            let call = call(request, message);
            check_request(call.get_ref(), site.max_request_bytes)?;
            let (_, messages, kept) = method(&site.counters, call).await?.into_parts();
            let events = events::response(messages, site.max_answer_bytes, place);
            Ok::<_, Problem>((kept, events).into_response())
        },
    )
}

impl Site {
    /// Calls a method; its answer becomes JSON, and keeps what the method put among
    /// its extensions: the edge holds that until the client has the answer.
    async fn answer<M: Message, A: Answer>(
        &self,
        call: tonic::Request<M>,
        method: CounterMethod<M, A>,
    ) -> Result<Response, Problem> {
        check_request(call.get_ref(), self.max_request_bytes)?;
        let (_, answer, kept) = method(&self.counters, call).await?.into_parts();
        check_answer(&answer, self.max_answer_bytes)?;
        Ok((kept, Json::new(&answer)?).into_response())
    }
}

/// The call with this message, by whoever has sent the request.
fn call<M>(request: Request, message: M) -> tonic::Request<M> {
    let (parts, _) = request.into_parts();
    let metadata = MetadataMap::from_headers(parts.headers);
    tonic::Request::from_parts(metadata, parts.extensions, message)
}

/// Reads all of a body.
async fn whole(body: Body, max_bytes: usize) -> Result<Bytes, Status> {
    let read = Limited::new(body, max_bytes).collect().await;
    read.map(|body| body.to_bytes()).map_err(|error| {
        let causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| {
            error.source()
        });
        for cause in causes {
            if let Some(late) = cause.downcast_ref::<Status>() {
                return late.clone();
            }
        }
        match error.is::<LengthLimitError>() {
            true => Status::new(
                Code::OutOfRange,
                format!("the body of the request is larger than {max_bytes} bytes"),
            ),
            false => bad_body(&error),
        }
    })
}

fn bad_body(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("the body of the request: {error}"))
}

/// Puts the checks of all calls in front of a route's handlers. They look at a
/// request as at the call of the route's method; what they refuse becomes a problem.
pub(super) fn checked(
    route: &'static Route,
    checks: &Checks,
    handlers: MethodRouter<Site>,
) -> MethodRouter<Site> {
    handlers
        .route_layer((
            MapResponseLayer::new(in_words_of_http),
            MapRequestLayer::new(|request: Request| as_call(route, request)),
            checks.clone(),
            MapRequestLayer::new(|call: http::Request<tonic::body::Body>| call.map(Body::new)),
            MapResponseLayer::new(|answer: Response| answer.map(tonic::body::Body::new)),
        ))
        .route_layer(from_fn(unless_known))
}

/// The request as the edge of gRPC sees it: the path is that of the method, and of
/// the headers only those are left that a call has.
fn as_call(route: &Route, mut request: Request) -> http::Request<tonic::body::Body> {
    let path = format!("/{SERVICE_NAME}/{}", route.method);
    // The names of a service and its method are always a path.
    let path = path.parse().unwrap_or_else(|_| Uri::default());
    let uri = std::mem::replace(request.uri_mut(), path);
    let headers = std::mem::take(request.headers_mut());
    let mut passed_on = HeaderMap::new();
    for name in PASSED_ON {
        for value in headers.get_all(&name) {
            passed_on.append(name.clone(), value.clone());
        }
    }
    *request.headers_mut() = passed_on;
    let last_event_id = headers.get(LAST_EVENT_ID).cloned();
    let hidden = Hidden { uri, last_event_id };
    request.extensions_mut().insert(hidden);
    request.map(tonic::body::Body::new)
}

/// A refusal of the edge, which is in gRPC's words, as a problem.
fn in_words_of_http(answer: http::Response<tonic::body::Body>) -> Response {
    match Status::from_header_map(answer.headers()) {
        Some(refused) if refused.code() != Code::Ok => Problem::from(refused).into_response(),
        _ => answer.map(Body::new),
    }
}

/// Tells a client that has the answer already just that.
async fn unless_known(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let known: Vec<_> = request
        .headers()
        .get_all(IF_NONE_MATCH)
        .into_iter()
        .cloned()
        .collect();
    let mut response = next.run(request).await;
    if is_read && is_known(response.headers().get(ETAG), &known) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(CONTENT_TYPE);
        *response.body_mut() = Body::empty();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::web::routes::ROUTES;

    #[test]
    fn the_edge_sees_a_call_of_the_method_and_no_headers_but_its_own() {
        let request = Request::builder()
            .uri("/v1/tenants/t/users/u/stats?after_event_id=e")
            .header("authorization", "Bearer x")
            .header("cookie", "y")
            .header(LAST_EVENT_ID, "z");
        let call = as_call(&ROUTES[0], request.body(Body::empty()).unwrap());
        assert_eq!(call.uri(), "/chatcounters.v1.CounterService/GetUserStats");
        let headers: Vec<_> = call.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(headers, ["authorization"]);
        let hidden: &Hidden = call.extensions().get().unwrap();
        assert_eq!(hidden.uri.query(), Some("after_event_id=e"));
        assert_eq!(hidden.last_event_id.as_ref().unwrap(), "z");
    }
}
