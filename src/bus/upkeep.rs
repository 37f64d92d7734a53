//! Noticing that events no longer find their way to the queue, and mending it.
//!
//! An exchange that a producer deletes takes the binding with it. Declared anew
//! by the same producer it looks as before, and every event published to it is
//! gone: AMQP shows nobody which bindings there are. What does show is a
//! **witness**: an exchange of ours, bound to the events' exchange, that the
//! broker deletes by itself once that one is gone.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use tracing::warn;

use super::connect::{Link, in_time};
use super::error::{BusError, amqp_code, short};
use super::failure_log::FailureLog;
use super::topology;
use crate::config;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// How often the topology is checked: what is published while the binding is missing is
/// lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The longest name that AMQP has, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Whether the exchange that witnesses the binding is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witness {
    Present,
    Missing,
    /// This user may not have a witness.
    Forbidden,
}

/// Checks the topology once a second until a stop is requested, on a connection of its
/// own: a question that the broker refuses closes the channel it was asked on.
pub(crate) async fn run(bus: config::Bus, metrics: Metrics, shutdown: Shutdown) {
    let mut upkeep = Upkeep {
        bus,
        metrics,
        link: None,
        failures: FailureLog::new("cannot look whether events find their way to the queue"),
        forbidden: false,
        known: false,
    };
    let mut every = tokio::time::interval(CHECK_INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            _ = every.tick() => {}
        }
        tokio::select! {
            // A broker that is frozen takes its time to answer.
            () = shutdown.requested() => break,
            () = upkeep.look() => {}
        }
    }
    if let Some(link) = upkeep.link {
        link.close().await;
    }
}

struct Upkeep {
    bus: config::Bus,
    metrics: Metrics,
    link: Option<Link>,
    failures: FailureLog,
    /// Whether the log says already that there can be no witness.
    forbidden: bool,
    /// Whether the topology was ever as it must be.
    known: bool,
}

impl Upkeep {
    async fn look(&mut self) {
        let looked = match self.link.take() {
            Some(link) => self.look_on(&link).await.map(|()| link),
            None => self.begin().await,
        };
        match looked {
            Ok(link) => {
                self.metrics.bus.topology_broken.set(0);
                self.metrics.bus.has_answered();
                self.failures
                    .succeeded("events find their way to the queue");
                self.link = Some(link);
            }
            Err(error) => {
                self.metrics.bus.topology_broken.set(1);
                self.failures.failed(&error);
            }
        }
    }

    /// The consumer has declared everything; a first look of all has nothing to
    /// compare with. One after a lost connection has.
    async fn begin(&mut self) -> Result<Link, BusError> {
        let link = Link::open(&self.bus, "chat-counters upkeep").await?;
        if self.known {
            self.look_on(&link).await?;
        } else {
            self.mend(&link).await?;
            self.known = true;
        }
        Ok(link)
    }

    async fn look_on(&mut self, link: &Link) -> Result<(), BusError> {
        self.look_after_letters(link).await?;
        // Without the permission to have a witness, that it is missing says nothing.
        if self.forbidden || witness(link, &self.bus, true).await? != Witness::Missing {
            return topology::bind(link, &self.bus).await;
        }
        self.mend(link).await?;
        self.metrics.bus.topology_restored.inc();
        warn!(
            exchange = self.bus.exchange,
            queue = self.bus.queue,
            "the exchange was deleted and its bindings with it; the queue is bound again, what was published meanwhile is lost unless its producer repeats it"
        );
        Ok(())
    }

    /// The next letter of this service would have it declared, but what the broker
    /// itself gives up until then has nowhere to go.
    async fn look_after_letters(&self, link: &Link) -> Result<(), BusError> {
        let name = &self.bus.dead_letter_queue;
        let found = topology::counts(link, "bus.dead_letter_queue", name).await?;
        if found.is_none() {
            topology::dead_letter_queue(link, &self.bus).await?;
            warn!(
                queue = name,
                "the dead-letter queue was deleted, and the letters in it; it is declared again"
            );
        }
        Ok(())
    }

    /// Everything as it must be, and a witness of it.
    async fn mend(&mut self, link: &Link) -> Result<(), BusError> {
        topology::declare(link, &self.bus).await?;
        if witness(link, &self.bus, false).await? == Witness::Forbidden
            && !std::mem::replace(&mut self.forbidden, true)
        {
            warn!(
                exchange = name(&self.bus),
                "the user of bus.url may not declare or bind this exchange, so that nobody is told when the events' exchange is replaced; the queue is bound again all the same"
            );
        }
        Ok(())
    }
}

/// One for each exchange: a witness that is bound to the exchange of an earlier
/// configuration as well would outlive the present one. Where that is too long a
/// name, the queue's must do.
fn name(bus: &config::Bus) -> String {
    let name = format!("{}.witness.{}", bus.queue, bus.exchange);
    match name.len() {
        ..=MAX_NAME_BYTES => name,
        _ => format!("{}.witness", bus.queue),
    }
}

/// Looks for the witness, or makes it and binds it.
async fn witness(link: &Link, bus: &config::Bus, passive: bool) -> Result<Witness, BusError> {
    let name = short("bus.queue", &name(bus))?;
    let to = short("bus.exchange", &bus.exchange)?;
    let channel = link.channel().await?;
    let options = ExchangeDeclareOptions {
        passive,
        // A broker that restarts is no reason to miss it.
        durable: true,
        auto_delete: true,
        internal: true,
        ..Default::default()
    };
    let looked = async {
        let declared = channel.exchange_declare(
            name.clone(),
            ExchangeKind::Fanout,
            options,
            FieldTable::default(),
        );
        if let Err(error) = declared.await {
            return Ok(Err(error));
        }
        if passive {
            return Ok(Ok(()));
        }
        let options = ExchangeBindOptions::default();
        let bound = channel.exchange_bind(to, name, "".into(), options, FieldTable::default());
        Ok(bound.await)
    };
    match in_time("looking after the exchange", looked).await? {
        Ok(()) => Ok(Witness::Present),
        Err(error) if amqp_code(&error) == Some(404) => Ok(Witness::Missing),
        Err(error) if amqp_code(&error) == Some(403) => Ok(Witness::Forbidden),
        Err(error) => Err(BusError::while_doing("looking after the exchange", &error)),
    }
}
