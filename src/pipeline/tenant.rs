//! Whether events are of the tenant under whose routing key they came.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::bus::Delivery;
use crate::config::CheckTenant;
use crate::deadletter::{Failure, Reason};
use crate::event::Event;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// The shortest time between two log lines: a producer that is wrong about its tenant is so
/// in each of its events.
const LOG_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Compares the tenants of events with their routing keys, counts those that differ, and
/// logs one an hour.
#[derive(Debug)]
pub(super) struct TenantWatch {
    check: CheckTenant,
    metrics: Metrics,
    throttle: Throttle,
}

impl TenantWatch {
    pub(super) fn new(check: CheckTenant, metrics: Metrics) -> Self {
        Self {
            check,
            metrics,
            throttle: Throttle::new(LOG_INTERVAL),
        }
    }

    /// Checks the tenant of an event.
    ///
    /// # Errors
    /// When the tenant differs, and such events are to be dead-lettered.
    pub(super) fn check(&mut self, event: &Event, delivery: &Delivery) -> Result<(), Failure> {
        // Straight to the queue: a replay, or somebody who may write there.
        if self.check == CheckTenant::Off || delivery.exchange().is_empty() {
            return Ok(());
        }
        let (key, tenant) = (delivery.routing_key(), event.tenant.as_str());
        if tenant_of(key) == Some(tenant) {
            return Ok(());
        }
        self.metrics.events.wrong_tenants.inc();
        let refused = self.check == CheckTenant::DeadLetter;
        if let Some(events) = self.throttle.pass(Instant::now()) {
            warn!(
                tenant,
                event = %event.stamp.event,
                event_type = event.fact.event_type().as_str(),
                routing_key = key,
                publisher = delivery.user_id().unwrap_or_default(),
                since_last_line = events,
                "events are of another tenant than their routing key, and are {}: is the producer right about both? Expected is {{entityType}}.{{action}}.{{tenantId}}",
                if refused { "dead-lettered" } else { "counted" }
            );
        }
        match refused {
            true => Err(Failure {
                reason: Reason::WrongTenant,
                error: error(key, tenant, delivery.user_id()),
            }),
            false => Ok(()),
        }
    }
}

/// Returns the tenant of a routing key: all after the second dot. Neither the type of an
/// entity nor an action has a dot, a tenant may. Were dots allowed to stand anywhere,
/// somebody who may publish for the tenant `a.b` could do so for `b`.
fn tenant_of(routing_key: &str) -> Option<&str> {
    routing_key.splitn(3, '.').nth(2)
}

fn error(key: &str, tenant: &str, publisher: Option<&str>) -> String {
    let by = publisher.map_or_else(String::new, |user| format!(", published by {user:?}"));
    format!(
        "tenantId: expected the tenant of the routing key {key:?} (all after its second dot), found {tenant:?}{by}"
    )
}

#[cfg(test)]
mod tests {
    use super::tenant_of;

    #[test]
    fn a_tenant_is_all_after_the_second_dot() {
        for (key, tenant) in [
            ("message.create.t1", Some("t1")),
            ("dialogMember.add.a.b", Some("a.b")),
            ("message.create.a..b.", Some("a..b.")),
            ("message.create.", Some("")),
            ("message.create", None),
            ("", None),
        ] {
            assert_eq!(tenant_of(key), tenant, "{key}");
        }
    }
}
