//! What the process itself takes.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Resident memory in bytes, looked up whenever it is asked for.
#[derive(Debug)]
pub(super) struct Resident;

impl TypedMetric for Resident {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Resident {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        // 0 where /proc is not to be had.
        encoder.encode_gauge(&resident_bytes().unwrap_or(0))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

fn resident_bytes() -> Option<i64> {
    // In KiB, unlike statm, which counts pages of a size that varies.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_takes_memory() {
        assert!(super::resident_bytes().unwrap_or(0) > 1 << 20);
    }
}
