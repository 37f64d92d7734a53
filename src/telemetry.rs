//! Logs and metrics.

pub mod http;
pub mod log;
pub mod metrics;
mod process;
pub mod standing;
pub mod throttle;
