//! One life of the consumer: from a connection to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::{Link, in_time};
use super::delivery::{Delivery, Return};
use super::error::{BusError, short};
use super::letter::Letter;
use super::watchdog::Watchdog;
use super::{settle, topology};
use crate::config;
use crate::deadletter::{Failure, Reason};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Finished deliveries may wait behind an unfinished one up to this share of
/// the prefetch; then they are acknowledged one by one.
const WAITING_SHARE: u16 = 4;

/// Why a session no longer forwards.
#[derive(Debug)]
pub(super) enum End {
    /// A shutdown was requested, or no one receives any more.
    Stopped,
    /// Nothing was delivered for a while, and nothing waits.
    Quiet,
    /// It broke; `kind` is its label in the metrics.
    Broken { kind: &'static str, error: BusError },
}

/// Connected, with the topology in place; not consuming yet.
pub(super) struct Session {
    link: Link,
    channel: Channel,
}

impl Session {
    pub(super) async fn open(bus: &config::Bus) -> Result<Self, BusError> {
        let link = Link::open(bus.url.expose(), "chat-counters").await?;
        Self::on(link, bus).await
    }

    async fn on(link: Link, bus: &config::Bus) -> Result<Self, BusError> {
        match prepare(&link, bus).await {
            Ok(channel) => Ok(Self { link, channel }),
            Err(error) => {
                link.close().await;
                Err(error)
            }
        }
    }

    /// Starts to consume.
    pub(super) async fn consume(
        self,
        bus: &config::Bus,
        letters: mpsc::UnboundedSender<Letter>,
        metrics: Metrics,
    ) -> Result<Consuming, BusError> {
        let Session { link, channel } = self;
        let queue = short("bus.queue", &bus.queue)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        let consumer = in_time("starting to consume", consumer).await?;
        #[allow(clippy::disallowed_methods, reason = "the prefetch is its limit")]
        let (settle, settlements) = mpsc::unbounded_channel();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let bound = usize::from(bus.prefetch / WAITING_SHARE);
        let mut settling = JoinSet::new();
        settling.spawn(settle::settle(
            channel.clone(),
            settlements,
            in_flight.clone(),
            bound,
        ));
        Ok(Consuming {
            link,
            channel,
            consumer,
            back: Arc::new(Return { settle, letters }),
            settling,
            in_flight,
            metrics,
        })
    }
}

async fn prepare(link: &Link, bus: &config::Bus) -> Result<Channel, BusError> {
    topology::declare(link, bus).await?;
    let channel = link.channel().await?;
    // Before consuming: a consumer started earlier has no limit.
    let qos = channel.basic_qos(bus.prefetch, BasicQosOptions::default());
    in_time("setting the prefetch", qos).await?;
    Ok(channel)
}

/// Receiving deliveries, and settling them.
pub(super) struct Consuming {
    link: Link,
    channel: Channel,
    consumer: lapin::Consumer,
    back: Arc<Return>,
    /// The one task that settles; ended with this session.
    settling: JoinSet<Result<(), BusError>>,
    in_flight: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Consuming {
    /// Forwards deliveries to `sink` until the end.
    pub(super) async fn forward(
        &mut self,
        bus: &config::Bus,
        sink: &mpsc::Sender<Delivery>,
        shutdown: &Shutdown,
    ) -> End {
        let mut watchdog = Watchdog::new(Duration::from_secs(bus.watchdog_seconds));
        let mut stop = std::pin::pin!(shutdown.requested());
        loop {
            let received = tokio::select! {
                biased;
                () = &mut stop => return End::Stopped,
                received = self.consumer.next() => received,
                ended = self.settling.join_next() => return lost_settling(ended),
                () = watchdog.barks() => {
                    let idle = self.in_flight.load(Ordering::Relaxed) == 0;
                    match watchdog.look(idle, &self.link, bus).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    }
                }
            };
            let delivery = match received {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return lost("consuming", &error),
                None => return cancelled(&bus.queue),
            };
            watchdog.fed();
            let Some(delivery) = self.accept(delivery, bus.max_body_bytes) else {
                continue;
            };
            if let Err(mpsc::error::TrySendError::Full(delivery)) = sink.try_send(delivery) {
                // Dropped where it is not sent: the broker gets it back.
                tokio::select! {
                    biased;
                    () = &mut stop => return End::Stopped,
                    ended = self.settling.join_next() => return lost_settling(ended),
                    _ = sink.send(delivery) => {}
                }
            }
            if sink.is_closed() {
                tracing::error!("no one takes deliveries any more: stopping to consume");
                return End::Stopped;
            }
        }
    }

    /// Counts a delivery in. One with a body over the limit goes no further.
    fn accept(&self, delivery: lapin::message::Delivery, limit: usize) -> Option<Delivery> {
        self.metrics.deliveries.inc();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let delivery = Delivery::new(delivery, Arc::clone(&self.back));
        if delivery.is_altered() {
            self.metrics.deliveries_altered.inc();
        }
        let bytes = delivery.body().len();
        if bytes <= limit {
            return Some(delivery);
        }
        tracing::warn!(
            bytes,
            limit,
            routing_key = delivery.routing_key(),
            "dead-lettering a message over the size limit"
        );
        delivery.dead_letter(Failure {
            reason: Reason::TooLarge,
            error: format!(
                "the body has {bytes} bytes, more than the limit of {limit} (bus.max_body_bytes)"
            ),
        });
        None
    }

    /// Ends a session that broke: the broker delivers again all that is not
    /// settled, and settling it now does nothing.
    pub(super) async fn abandon(mut self) {
        self.settling.shutdown().await;
        self.link.close().await;
    }

    /// Ends in order: no more deliveries, those not forwarded given back,
    /// those handed out awaited and settled, channel and connection closed.
    /// Takes as long as the deliveries handed out take.
    pub(super) async fn drain(self) {
        self.end_channel().await.close().await;
    }

    /// Ends in order, and begins anew on the same connection. Closing the
    /// channel makes the broker deliver again what it believes to have
    /// delivered on it.
    pub(super) async fn renew(self, bus: &config::Bus) -> Result<Session, BusError> {
        Session::on(self.end_channel().await, bus).await
    }

    async fn end_channel(self) -> Link {
        let Consuming {
            link,
            channel,
            mut consumer,
            back,
            mut settling,
            ..
        } = self;
        let unread = async {
            let cancel = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            in_time("cancelling the consumer", cancel).await?;
            let mut unread = Vec::new();
            while let Some(Ok(delivery)) = consumer.next().await {
                unread.push(delivery.delivery_tag);
            }
            settle::requeue(&channel, unread).await
        };
        if let Err(error) = unread.await {
            tracing::warn!("the broker will notice by itself that this consumer is gone: {error}");
        }
        drop(back);
        if let Some(Ok(Err(error))) = settling.join_next().await {
            tracing::warn!("what was not acknowledged will be delivered again: {error}");
        }
        let _ = in_time("closing the channel", channel.close(200, "OK".into())).await;
        link
    }
}

fn lost(doing: &str, error: &lapin::Error) -> End {
    End::Broken {
        kind: "connection",
        error: BusError::while_doing(doing, error),
    }
}

fn lost_settling(ended: Option<Result<Result<(), BusError>, tokio::task::JoinError>>) -> End {
    let error = match ended {
        Some(Ok(Err(error))) => error,
        // The task ends well only after this session has let go of it.
        other => BusError::Lost {
            doing: "acknowledging".into(),
            why: format!("the task ended: {other:?}"),
        },
    };
    End::Broken {
        kind: "connection",
        error,
    }
}

pub(super) fn cancelled(queue: &str) -> End {
    End::Broken {
        kind: "cancelled",
        error: BusError::Cancelled {
            queue: queue.into(),
        },
    }
}
