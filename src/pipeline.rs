//! From the bus to the lanes: decode each delivery and send it where its
//! dialog is.

mod tenant;
mod watch;

use tokio::sync::mpsc;
use tracing::debug;

use crate::bus::Delivery;
use crate::config::CheckTenant;
use crate::deadletter::Failure;
use crate::event::Event;
use crate::event::decode::{Decoded, Decoder};
use crate::failpoint::{self, Point};
use crate::lane::{Arrivals, TypesInFlight, Work};
use crate::telemetry::metrics::Metrics;
use tenant::TenantWatch;
use watch::TimeWatch;

/// The first stage of the service: decodes deliveries and hands them to the lanes.
#[derive(Debug)]
pub(crate) struct Pipeline {
    decoder: Decoder,
    lanes: Arrivals,
    types: TypesInFlight,
    times: TimeWatch,
    tenants: TenantWatch,
    metrics: Metrics,
}

impl Pipeline {
    /// Makes a pipeline into these lanes.
    pub(crate) fn new(
        decoder: Decoder,
        lanes: Arrivals,
        types: TypesInFlight,
        check_tenant: CheckTenant,
        metrics: Metrics,
    ) -> Self {
        Self {
            decoder,
            lanes,
            types,
            times: TimeWatch::new(metrics.clone()),
            tenants: TenantWatch::new(check_tenant, metrics.clone()),
            metrics,
        }
    }

    /// Works until the bus hands over no more, then lets go of the lanes, which
    /// end when they have settled what they hold.
    pub(crate) async fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>) {
        while let Some(delivery) = deliveries.recv().await {
            failpoint::pass(Point::Delivered);
            match self.decoder.decode(delivery.body()) {
                Ok(Decoded::Event(event, times)) => match self.tenants.check(&event, &delivery) {
                    Ok(()) => {
                        self.times.check(&event, &times);
                        self.dispatch(event, delivery);
                    }
                    Err(failure) => self.refuse(failure, delivery),
                },
                Ok(Decoded::Ignored { event_type }) => {
                    self.metrics.events.ignore(&event_type);
                    delivery.ack();
                }
                Err(error) => self.refuse(error.into(), delivery),
            }
        }
    }

    fn dispatch(&self, event: Event, delivery: Delivery) {
        failpoint::pass(Point::Decoded);
        self.types.arrived(&event);
        self.lanes.add(Work::new(event, delivery));
    }

    fn refuse(&self, failure: Failure, delivery: Delivery) {
        // Not a warning: a producer that sends thousands of these would drown
        // the log. The dead letter says it all, the metric says how many.
        debug!(reason = %failure.reason, error = %failure.error, "dead-lettering an event");
        self.metrics.events.settle("dead_lettered");
        delivery.dead_letter(failure);
    }
}
