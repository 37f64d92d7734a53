//! chat-counters (crate documentation to be completed)

pub mod app;
pub mod bus;
pub mod cli;
pub mod config;
pub mod deadletter;
pub mod derive;
pub mod event;
pub mod grpc;
pub mod lane;
pub mod pipeline;
pub mod retry;
pub mod shutdown;
pub mod store;
pub mod telemetry;
