//! How many descriptors the process may have, and how many of them go to
//! connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// The descriptors left for the metrics port (256), the broker, the database, logs and
/// files.
const RESERVED_DESCRIPTORS: u64 = 512;
/// The fewest connections of a listener, whatever the limit: any process that can work
/// at all can have them.
const MIN_CONNECTIONS: usize = 16;

/// Returns, of the connections that each listener is configured for, as many as the
/// process can have. Raises the soft limit of descriptors to what is needed, as far as
/// the hard one lets it.
pub(crate) fn share(configured: &[(&'static str, usize)]) -> Vec<usize> {
    let wanted: u64 = configured.iter().map(|(_, number)| *number as u64).sum();
    let needed = wanted.saturating_add(RESERVED_DESCRIPTORS);
    let limit = raise(needed);
    let shares: Vec<usize> = shares(configured, limit.unwrap_or(u64::MAX));
    for ((name, number), share) in configured.iter().zip(&shares) {
        if share < number {
            warn!(
                "{name}.max_connections is {number}, but the process may have {} descriptors only (ulimit -n): {share} connections are taken",
                limit.unwrap_or_default()
            );
        }
    }
    shares
}

fn shares(configured: &[(&'static str, usize)], limit: u64) -> Vec<usize> {
    let wanted: u64 = configured.iter().map(|(_, number)| *number as u64).sum();
    // Of few, half.
    let free = limit - RESERVED_DESCRIPTORS.min(limit / 2);
    let share = |(_, number): &(&'static str, usize)| {
        if wanted <= free {
            return *number;
        }
        let part = u128::from(free) * *number as u128 / u128::from(wanted.max(1));
        usize::try_from(part)
            .unwrap_or(*number)
            .max(MIN_CONNECTIONS)
            .min(*number)
    };
    configured.iter().map(share).collect()
}

/// The limit in force; none is none.
fn raise(needed: u64) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let now = current?;
    if now >= needed {
        return Some(now);
    }
    let higher = maximum
        .map_or(needed, |maximum| maximum.min(needed))
        .max(now);
    let raised = Rlimit {
        current: Some(higher),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) if higher > now => {
            info!(from = now, to = higher, "raised the limit of descriptors");
            Some(higher)
        }
        Ok(()) => Some(now),
        Err(error) => {
            warn!(%error, "the limit of descriptors cannot be raised");
            Some(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_shared_by_what_is_wanted() {
        let configured = [("grpc", 4_000), ("admin", 100)];
        let rows = [
            (u64::MAX, [4_000, 100]),
            (4_612, [4_000, 100]),
            (2_562, [2_000, 50]),
            (256, [124, 16]),
            (10, [16, 16]),
        ];
        for (limit, expected) in rows {
            assert_eq!(shares(&configured, limit), expected, "{limit}");
        }
        assert_eq!(shares(&[("admin", 4)], 10), [4]);
    }
}
