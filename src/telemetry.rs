//! Logs and metrics.

pub(crate) mod log;
pub mod metrics;
mod process;
pub(crate) mod throttle;
