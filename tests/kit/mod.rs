//! What tests, demo and benchmark share: an independent model of the counters,
//! scenarios, the real service and private servers as processes. None of it
//! uses the service's own decoding or deriving.

#![allow(dead_code, reason = "each program uses its part")]

pub mod authority;
pub mod broker;
pub mod http1;
pub mod model;
pub mod random;
pub mod raw_amqp;
pub mod raw_http2;
pub mod read_back;
pub mod read_http;
pub mod scenario;
pub mod servers;
pub mod service;
pub mod subscriber;
pub mod watcher;
