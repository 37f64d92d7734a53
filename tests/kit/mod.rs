//! What tests, demo and benchmark share: an independent model of the counters,
//! scenarios, the real service and private servers as processes. None of it
//! uses the service's own decoding or deriving.

#![allow(dead_code, reason = "each program uses its part")]

pub(crate) mod authority;
pub(crate) mod broker;
pub(crate) mod http1;
pub(crate) mod model;
pub(crate) mod random;
pub(crate) mod raw_amqp;
pub(crate) mod raw_http2;
pub(crate) mod read_back;
pub(crate) mod read_http;
pub(crate) mod scenario;
pub(crate) mod servers;
pub(crate) mod service;
pub(crate) mod subscriber;
pub(crate) mod watcher;
