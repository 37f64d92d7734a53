//! Scans the dead-letter queue from its head to its end.
//!
//! AMQP has no way to take one message out of the middle of a queue: all before
//! it must be held first. A [`QueueScan`] takes every letter without acknowledging
//! it; each is then either removed, or kept until the end and given back in the
//! order in which it came. A process that dies in the middle leaves everything that
//! was not removed to the broker, which gives it back by itself.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::try_join_all;
use futures::stream::{SelectAll, StreamExt as _};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::time::Instant;

use super::{decode, raw};
use crate::bus::connect::{Link, in_time};
use crate::bus::delivery::Tag;
use crate::bus::error::{BusError, short};
use crate::bus::intake::{Intake, Scales, Weight};
use crate::bus::topology;
use crate::config;
use crate::deadletter::Letter;

/// After this long without a letter the broker is asked whether there is more.
const QUIET_INTERVAL: Duration = Duration::from_secs(2);
/// How often the broker is asked before a queue that has letters and delivers none is
/// given up.
const MAX_QUIET_INTERVALS: u32 = 10;
/// How long others who hold letters are waited for. A tool that is frozen holds
/// its own until the broker misses its heartbeats, some 20 s.
const OTHER_CONSUMERS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the queue is looked at meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// For how long a number of letters must not change to be believed.
const STABLE_FOR: Duration = Duration::from_secs(3);
/// The least prefetch of one consumer, in letters: each window is a consumer of its own.
const MIN_WINDOW: u16 = 2;
/// Bytes that may be read and not dealt with, where `bus.prefetch_bytes` is not
/// less; those of a window are as many. What is dealt with exists several times: in
/// the form of the broker, of the database, and of what is sent to either.
const MAX_BYTES_IN_HAND: usize = 8 << 20;
/// What the bytes in hand are divided by for those of the letters that are worked on
/// together: half of them.
const BATCH_DIVISOR: usize = 2;
/// The number of letters that one negative acknowledgement gives back.
const NACK_BATCH: usize = 1_000;

/// A scan of the dead-letter queue that is under way.
pub(crate) struct QueueScan {
    link: Link,
    channel: Channel,
    /// Each has its window of letters that may be unsettled. As many as it
    /// takes: a window is full once it is full of letters that are kept.
    consumers: SelectAll<Consumer>,
    /// How many letters fit into all windows.
    room: usize,
    scales: Arc<Scales>,
    /// The number of letters taken so far.
    taken: usize,
    /// The size of their bodies.
    bytes: usize,
    bus: config::Bus,
    /// The number of letters that were in the queue at the beginning, held by nobody.
    expected: usize,
    examined: usize,
    unsettled: usize,
    kept: Vec<Tag>,
}

/// A letter of the scan that is in hand: to be kept or removed.
#[derive(Debug)]
pub(crate) struct ScannedLetter {
    /// The letter as it is in the queue.
    pub(crate) letter: Letter,
    tag: Tag,
    /// Counts as bytes in hand until this is dropped.
    _weight: Weight,
}

impl QueueScan {
    /// Begins at the head of the queue, once nobody else holds letters: the scan
    /// would take those for gone. `known` is how many letters there should be. A
    /// queue that does not exist has none.
    ///
    /// # Errors
    /// Any [`BusError`].
    pub(crate) async fn open(bus: &config::Bus, known: usize) -> Result<Self, BusError> {
        let scales = Scales::new(&Intake::new(in_hand(bus)));
        let (name, weighing) = ("chat-counters dead letters, pass", Arc::clone(&scales));
        let link = Link::weighed(bus, name, Some(weighing)).await?;
        let Some(ready) = settled_count(&link, bus, known).await? else {
            return Err(lost(
                "another consumer holds letters of it; a pass must see all of them",
            ));
        };
        let channel = link.channel().await?;
        Ok(Self {
            link,
            channel,
            consumers: SelectAll::new(),
            room: 0,
            scales,
            taken: 0,
            bytes: 0,
            bus: bus.clone(),
            expected: ready as usize,
            examined: 0,
            unsettled: 0,
            kept: Vec::new(),
        })
    }

    /// The number of letters taken so far.
    pub(crate) fn examined(&self) -> usize {
        self.examined
    }

    /// Takes the next letters: at most so many, fewer of large ones, none at the end.
    /// What arrives during the scan is not waited for.
    ///
    /// # Errors
    /// When the broker is lost, or does not deliver what it has.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Vec<ScannedLetter>, BusError> {
        let most = most.min(self.expected - self.examined);
        let mut letters = Vec::with_capacity(most);
        let (mut quiets, before) = (0, self.bytes);
        while letters.len() < most && self.bytes - before <= batch_bytes(&self.bus) {
            if self.unsettled >= self.room {
                self.widen().await?;
            }
            let Ok(next) = tokio::time::timeout(QUIET_INTERVAL, self.consumers.next()).await else {
                quiets += 1;
                if !self.is_drained(quiets).await? {
                    continue;
                }
                // What was on its way all that time is here now.
                if let Some(next) = self.consumers.next().now_or_never() {
                    letters.push(self.held(next)?);
                    continue;
                }
                self.expected = self.examined + letters.len();
                break;
            };
            letters.push(self.held(next)?);
        }
        self.examined += letters.len();
        Ok(letters)
    }

    fn held(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<ScannedLetter, BusError> {
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(BusError::while_doing("reading dead letters", &error)),
            None => {
                return Err(BusError::Cancelled {
                    queue: self.bus.dead_letter_queue.clone(),
                });
            }
        };
        self.unsettled += 1;
        self.taken += 1;
        self.bytes += delivery.data.len();
        let weight = self.scales.take(delivery.data.len());
        let details = decode::read(&delivery.properties, &delivery.data, &self.bus);
        let raw = raw::raw_message(&delivery.properties, delivery.data);
        let raw = raw.ok_or_else(|| lost("a letter cannot be encoded again"))?;
        Ok(ScannedLetter {
            letter: Letter::new(details, raw),
            tag: delivery.delivery_tag,
            _weight: weight,
        })
    }

    /// The prefetch of the next consumer: as many letters as fit of the largest so far.
    fn window(&self) -> u16 {
        let largest = match self.taken {
            0 => self.bus.max_body_bytes,
            _ => self.scales.heaviest(),
        };
        let fitting = in_hand(&self.bus) / largest.max(1);
        let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
        fitting.max(MIN_WINDOW).min(self.bus.prefetch)
    }

    /// Starts one more consumer, with a window of its own: the prefetch of one that
    /// consumes cannot be raised.
    async fn widen(&mut self) -> Result<(), BusError> {
        let qos = BasicQosOptions { global: false };
        let window = self.window();
        let prefetch = self.channel.basic_qos(window, qos);
        in_time("setting the prefetch", prefetch).await?;
        let queue = short("bus.dead_letter_queue", &self.bus.dead_letter_queue)?;
        let options = BasicConsumeOptions::default();
        let consumer = self
            .channel
            .basic_consume(queue, "".into(), options, FieldTable::default());
        let consumer = in_time("starting to read dead letters", consumer).await?;
        self.consumers.push(consumer);
        self.room += usize::from(window);
        Ok(())
    }

    /// Whether there is nothing more to come: others may have taken letters. The broker
    /// is asked on the channel on which they come, lest letters that the broker takes
    /// seconds to send (1 to 2 s one of nested tables) count as gone.
    async fn is_drained(&self, quiets: u32) -> Result<bool, BusError> {
        let name = &self.bus.dead_letter_queue;
        let counts = topology::counts_on(&self.channel, "bus.dead_letter_queue", name).await;
        match counts {
            // The answer stands behind a letter that is long on its way.
            Err(_) if self.channel.status().connected() && quiets < MAX_QUIET_INTERVALS => {
                Ok(false)
            }
            Ok(Some(counts)) if counts.ready > 0 && quiets < MAX_QUIET_INTERVALS => Ok(false),
            Ok(Some(counts)) if counts.ready > 0 => Err(lost("it has letters and delivers none")),
            Ok(_) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Leaves a letter in the queue.
    pub(crate) fn keep(&mut self, letter: ScannedLetter) {
        self.kept.push(letter.tag);
    }

    /// Takes letters out of the queue for good. When it returns, the broker has
    /// heard of it.
    ///
    /// # Errors
    /// When the connection is lost: the letters may be in the queue still.
    pub(crate) async fn remove(&mut self, letters: Vec<ScannedLetter>) -> Result<(), BusError> {
        let one = BasicAckOptions { multiple: false };
        let tags: Vec<_> = letters.iter().map(|letter| letter.tag).collect();
        drop(letters);
        let acks = tags.iter();
        let acks = acks.map(|tag| self.channel.basic_ack(*tag, one));
        let acked = try_join_all(acks).await;
        acked.map_err(|error| BusError::while_doing("removing dead letters", &error))?;
        self.unsettled -= tags.len();
        // Acknowledgements have no answer, but what follows on the channel has.
        let qos = BasicQosOptions { global: false };
        let answer = self.channel.basic_qos(self.bus.prefetch, qos);
        // It stands behind a window of letters at most.
        self.scales.let_through(true);
        let answer = in_time("removing dead letters", answer).await;
        self.scales.let_through(false);
        answer
    }

    /// Gives back all that was kept, in the order in which it came, and waits
    /// until it is there again.
    ///
    /// # Errors
    /// When the connection is lost: the broker then gives the letters back by itself.
    pub(crate) async fn end(mut self) -> Result<(), BusError> {
        // What is on its way is given back, so that it may as well be read.
        self.scales.let_through(true);
        self.kept.sort_unstable();
        let given_back = self.kept.len();
        // Whatever is before the last of a part is kept too, or is removed.
        let back = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        for part in self.kept.chunks(NACK_BATCH) {
            let last = part.last().copied().unwrap_or_default();
            let given = self.channel.basic_nack(last, back).await;
            given.map_err(|error| BusError::while_doing("giving dead letters back", &error))?;
        }
        let closed = self.channel.close(200, "OK".into());
        in_time("giving dead letters back", closed).await?;
        // Out of patience: they come, all the same.
        settled_count(&self.link, &self.bus, given_back).await?;
        self.link.close().await;
        Ok(())
    }
}

/// The size of the bodies of letters that are worked on together, in bytes; one letter
/// more may be among them.
pub(crate) fn batch_bytes(bus: &config::Bus) -> usize {
    in_hand(bus) / BATCH_DIVISOR
}

/// The size of the bodies that may be in hand, in bytes.
fn in_hand(bus: &config::Bus) -> usize {
    bus.prefetch_bytes.min(MAX_BYTES_IN_HAND)
}

/// Waits until nobody holds letters, and those that somebody held are there again;
/// then counts them. `None` when that takes longer than it may.
///
/// A quorum queue forgets a consumer before it takes back what that one held:
/// 0.6 s before, of 100,000 letters. So fewer than there should be are believed
/// only when their number stays the same.
async fn settled_count(
    link: &Link,
    bus: &config::Bus,
    known: usize,
) -> Result<Option<u32>, BusError> {
    let began = Instant::now();
    let (mut last, mut since) = (None, began);
    loop {
        let name = &bus.dead_letter_queue;
        let counts = topology::counts(link, "bus.dead_letter_queue", name).await?;
        let Some(counts) = counts else {
            return Ok(Some(0));
        };
        if last != Some(counts) {
            (last, since) = (Some(counts), Instant::now());
        }
        let late = began.elapsed() > OTHER_CONSUMERS_TIMEOUT;
        let all = counts.ready as usize >= known || since.elapsed() > STABLE_FOR;
        if counts.consumers == 0 && (all || late) {
            return Ok(Some(counts.ready));
        }
        if late {
            return Ok(None);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn lost(why: &str) -> BusError {
    BusError::Lost {
        doing: "going through the dead-letter queue".into(),
        why: why.into(),
    }
}
