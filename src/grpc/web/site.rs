//! What all handlers of requests over HTTP share.

use std::sync::Arc;

use super::super::admission::Places;
use super::super::service::Counters;

/// The state that all handlers share.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// The methods of gRPC.
    pub(super) counters: Arc<Counters>,
    /// Places for streams of events: over HTTP/1 each has a connection of its own.
    pub(super) streams: Places,
    /// The largest body of a request, and the largest message made of one, in bytes.
    pub(super) max_request_bytes: usize,
    /// The largest answer, in bytes of its encoding for gRPC.
    pub(super) max_answer_bytes: usize,
}
