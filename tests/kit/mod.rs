//! What tests, demo and benchmark share: an independent model of the counters,
//! scenarios, and the real service as a process. None of it uses the service's
//! own decoding or deriving.

#![allow(dead_code, reason = "each program uses its part")]

pub mod model;
pub mod random;
pub mod read_back;
pub mod scenario;
pub mod service;
