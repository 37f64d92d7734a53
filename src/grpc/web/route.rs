//! One route: a path that can be asked, what may be in its query, and who answers.

use axum::routing::MethodRouter;

use super::site::Site;

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
    pub(super) handlers: fn(&'static Route) -> MethodRouter<Site>,
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

/// A parameter, for a constant.
pub(super) const fn parameter(
    name: &'static str,
    kind: &'static str,
    meaning: &'static str,
) -> Parameter {
    Parameter {
        name,
        kind,
        meaning,
    }
}
