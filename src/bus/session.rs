//! One life of the consumer: from a connection to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::{Link, in_time};
use super::delivery::{Delivery, FailedMessage, SettlementQueue};
use super::error::{BusError, short};
use super::intake::{Intake, Scales, Window};
use super::session_end::{End, cancelled};
use super::watchdog::Watchdog;
use super::{settle, topology};
use crate::config;
use crate::deadletter::{Failure, Reason};
use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// How long a session that has too much in hand waits for it to be settled.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session that is connected, with the topology in place, and does not consume yet.
pub(super) struct Session {
    link: Link,
    scales: Arc<Scales>,
    channel: Channel,
}

impl Session {
    pub(super) async fn open(bus: &config::Bus, intake: &Arc<Intake>) -> Result<Self, BusError> {
        let scales = Scales::new(intake);
        let weighing = Some(Arc::clone(&scales));
        let link = Link::weighed(bus, "chat-counters", weighing).await?;
        Self::on(link, scales, bus).await
    }

    async fn on(link: Link, scales: Arc<Scales>, bus: &config::Bus) -> Result<Self, BusError> {
        match prepare(&link, bus).await {
            Ok(channel) => Ok(Self {
                link,
                scales,
                channel,
            }),
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
        window: &Window,
        letters: mpsc::UnboundedSender<FailedMessage>,
        metrics: Metrics,
    ) -> Result<Consuming, BusError> {
        let Session {
            link,
            scales,
            channel,
        } = self;
        // Of a session before this one on the same connection.
        scales.clear();
        let consumer = consume(&channel, bus, window.wide()).await?;
        #[allow(clippy::disallowed_methods, reason = "the prefetch is its limit")]
        let (settle, settlements) = mpsc::unbounded_channel();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let wide = Arc::new(AtomicUsize::new(window.wide().into()));
        let mut settling = JoinSet::new();
        settling.spawn(settle::settle(
            channel.clone(),
            settlements,
            in_flight.clone(),
            wide.clone(),
        ));
        Ok(Consuming {
            link,
            scales,
            channel,
            consumer,
            left: VecDeque::new(),
            wide: wide.clone(),
            back: Arc::new(SettlementQueue {
                settle,
                letters,
                wide,
            }),
            settling,
            in_flight,
            metrics,
        })
    }
}

async fn prepare(link: &Link, bus: &config::Bus) -> Result<Channel, BusError> {
    topology::declare(link, bus).await?;
    link.channel().await
}

/// Begins to consume with a prefetch, which is that of this consumer.
async fn consume(
    channel: &Channel,
    bus: &config::Bus,
    prefetch: u16,
) -> Result<lapin::Consumer, BusError> {
    // Before consuming: a consumer started earlier has another limit.
    let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
    in_time("setting the prefetch", qos).await?;
    let queue = short("bus.queue", &bus.queue)?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    in_time("starting to consume", consumer).await
}

/// Cancels a consumer; returns what it was sent and has not handed out.
async fn cancel(
    channel: &Channel,
    consumer: &mut lapin::Consumer,
) -> Result<Vec<lapin::message::Delivery>, BusError> {
    let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    in_time("cancelling the consumer", cancelled).await?;
    let mut unread = Vec::new();
    while let Some(Ok(delivery)) = consumer.next().await {
        unread.push(delivery);
    }
    Ok(unread)
}

/// A session that receives deliveries and settles them.
pub(super) struct Consuming {
    link: Link,
    scales: Arc<Scales>,
    channel: Channel,
    consumer: lapin::Consumer,
    /// Deliveries that a consumer before this one was sent, on the same channel.
    left: VecDeque<lapin::message::Delivery>,
    /// The window, for the task that settles.
    wide: Arc<AtomicUsize>,
    back: Arc<SettlementQueue>,
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
        window: &mut Window,
        sink: &mpsc::Sender<Delivery>,
        (outage, shutdown): (&Outage, &Shutdown),
    ) -> End {
        let mut watchdog = Watchdog::new(Duration::from_secs(bus.watchdog_seconds));
        let mut stop = std::pin::pin!(shutdown.requested());
        let mut held = std::pin::pin!(outage.lasts(Duration::from_secs(bus.hold_seconds)));
        loop {
            let received = tokio::select! {
                biased;
                () = &mut stop => return End::Stopped,
                () = &mut held => return End::Held,
                received = next(&mut self.left, &mut self.consumer) => received,
                () = self.scales.full(), if window.is_wide() => return End::Full,
                ended = self.settling.join_next() => return lost_settling(ended),
                () = watchdog.silent() => {
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
            watchdog.note_delivery();
            let delivery = self.receive(delivery);
            let again = delivery.delivery_count() > 0;
            let wants_more = window.seen(delivery.body().len(), again, Instant::now());
            let Some(delivery) = within(delivery, bus.max_body_bytes) else {
                continue;
            };
            if let Err(mpsc::error::TrySendError::Full(delivery)) = sink.try_send(delivery) {
                // Dropped where it is not sent: the broker gets it back.
                tokio::select! {
                    biased;
                    () = &mut stop => return End::Stopped,
                    () = &mut held => return End::Held,
                    ended = self.settling.join_next() => return lost_settling(ended),
                    _ = sink.send(delivery) => {}
                }
            }
            if wants_more && let Err(end) = self.widen(bus, window).await {
                return end;
            }
            if sink.is_closed() {
                tracing::error!("no one takes deliveries any more: stopping to consume");
                return End::Stopped;
            }
        }
    }

    /// Consumes with a wider window, on the same channel: what is in flight stays
    /// so, and is settled as before.
    async fn widen(&mut self, bus: &config::Bus, window: &mut Window) -> Result<(), End> {
        let broken = |error| End::Broken {
            kind: "connection",
            error,
        };
        let unread = tokio::select! {
            unread = cancel(&self.channel, &mut self.consumer) => unread.map_err(broken)?,
            // The answer is behind more than fits.
            () = self.scales.full() => return Err(End::Full),
        };
        self.left.extend(unread);
        window.widen();
        let consumer = consume(&self.channel, bus, window.wide()).await;
        self.consumer = consumer.map_err(broken)?;
        self.wide.store(window.wide().into(), Ordering::Relaxed);
        Ok(())
    }

    /// Counts a delivery in.
    fn receive(&self, delivery: lapin::message::Delivery) -> Delivery {
        self.metrics.bus.deliveries.inc();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let weight = self.scales.take(delivery.data.len());
        let delivery = Delivery::new(delivery, Arc::clone(&self.back), weight);
        if delivery.is_altered() {
            self.metrics.bus.deliveries_altered.inc();
        }
        delivery
    }

    /// Ends a session that broke: the broker delivers again all that is not
    /// settled, and settling it now does nothing.
    pub(super) async fn abandon(mut self) {
        self.settling.shutdown().await;
        self.link.close().await;
    }

    /// The size of the largest delivery that was read, in bytes.
    pub(super) fn heaviest(&self) -> usize {
        self.scales.heaviest()
    }

    /// Ends a session that has too much on its way. What was handed out is settled
    /// if that does not take long; the rest, of which there may be many times as
    /// much as fits, is not even read.
    pub(super) async fn cut(self) {
        let Consuming {
            link,
            scales,
            back,
            mut settling,
            ..
        } = self;
        drop(back);
        // Out of patience: the broker delivers again what is not settled.
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settling.join_next()).await;
        drop(link);
        // lapin lets go of it only once it misses the connection.
        scales.clear();
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
        let scales = Arc::clone(&self.scales);
        Session::on(self.end_channel().await, scales, bus).await
    }

    async fn end_channel(self) -> Link {
        let Consuming {
            link,
            scales,
            channel,
            mut consumer,
            left,
            back,
            mut settling,
            ..
        } = self;
        let unread = async {
            let unread = tokio::select! {
                unread = cancel(&channel, &mut consumer) => unread?,
                () = scales.full() => return Err(too_much()),
            };
            let unread = left.into_iter().chain(unread);
            let tags = unread.map(|delivery| delivery.delivery_tag).collect();
            settle::requeue(&channel, tags).await
        };
        if let Err(error) = unread.await {
            tracing::warn!("the broker will notice by itself that this consumer is gone: {error}");
        }
        drop(back);
        if let Some(Ok(Err(error))) = settling.join_next().await {
            tracing::warn!("what was not acknowledged will be delivered again: {error}");
        }
        if !scales.is_full() {
            let _ = in_time("closing the channel", channel.close(200, "OK".into())).await;
        }
        link
    }
}

/// A delivery with a body over the limit goes no further.
fn within(delivery: Delivery, limit: usize) -> Option<Delivery> {
    let bytes = delivery.body().len();
    if bytes <= limit {
        return Some(delivery);
    }
    // Not a warning, for the same reason as any dead letter is none.
    tracing::debug!(
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

/// Awaits the next delivery; first come those that are left of an earlier consumer.
async fn next(
    left: &mut VecDeque<lapin::message::Delivery>,
    consumer: &mut lapin::Consumer,
) -> Option<lapin::Result<lapin::message::Delivery>> {
    match left.pop_front() {
        Some(delivery) => Some(Ok(delivery)),
        None => consumer.next().await,
    }
}

/// The broker's answer is behind more bytes than are read.
fn too_much() -> BusError {
    BusError::Lost {
        doing: "cancelling the consumer".into(),
        why: "more is on its way than bus.prefetch_bytes lets in".into(),
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
