//! The router of all routes.

use axum::Router;
use axum::routing::get;
use hyper::StatusCode;
use tonic::Status;

use super::super::edge::Checks;
use super::call::checked;
use super::openapi;
use super::problem::Problem;
use super::routes::ROUTES;
use super::site::Site;

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
