//! Logs and metrics.

pub mod log;
pub mod metrics;
mod process;
pub mod throttle;
