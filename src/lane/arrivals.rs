//! Events that wait for a lane.
//!
//! Each transaction has a cost that does not depend on its events, most of it
//! the store's. So while a single lane keeps up, it alone has all events, and a
//! second lane begins only when events come faster: then each has the dialogs of
//! its own. Transactions begin some time apart from each other, unless there are
//! events enough for a full one: an event on an idle service waits for nothing,
//! and events that follow each other closely share one.
//!
//! Events of one partition are never with two of these lanes at a time. Most events
//! that change the same documents are of one partition; the commit refuses the others.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Work;
use crate::event::{Event, Fact};

/// Partitions into which dialogs are divided. A lane that works on one of a partition's
/// keeps all of them from other lanes, so there are many.
const PARTITIONS: usize = 1_024;

/// The queue that events arrive in. Lanes end once this is dropped and nothing
/// waits.
#[derive(Debug)]
pub struct Arrivals(Arc<Queue>);

/// A view of how much lanes have to do, for those who can wait themselves.
#[derive(Debug, Clone)]
pub struct Backlog {
    queue: Arc<Queue>,
    /// The most events that there can be.
    most: usize,
}

/// The queue that one lane takes its events from.
#[derive(Debug)]
pub(super) struct LaneEvents {
    queue: Arc<Queue>,
    lane: usize,
}

/// The partitions of a batch, which no other lane has events of until this is
/// dropped.
#[derive(Debug)]
pub(super) struct HeldPartitions {
    queue: Arc<Queue>,
    partitions: Vec<usize>,
    events: usize,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Schedule<Work>>,
    /// A signal for each lane that there may be something to do.
    woken: Vec<Notify>,
    /// The number of events that lanes work on.
    in_hand: AtomicUsize,
}

/// Decides which lane has which events next, apart from the clock and from
/// waiting.
#[derive(Debug)]
struct Schedule<T> {
    /// The events that wait, each with its partition, in order of arrival.
    events: VecDeque<(usize, T)>,
    /// Whether a lane has events of each partition.
    held: Vec<bool>,
    /// How many events wait for each lane whose partition is its own and not
    /// held.
    ready: Vec<usize>,
    /// The number of lanes that have a batch.
    busy: usize,
    /// When the last batch began.
    began: Option<Instant>,
    /// The shortest time between the beginnings of two batches that are not
    /// full.
    min_interval: Duration,
    /// The number of events in a full batch.
    full: usize,
    /// Whether nothing more will arrive.
    is_closed: bool,
}

/// What a lane is to do.
#[derive(Debug, PartialEq, Eq)]
enum NextStep<T> {
    /// The lane is to work on these events, of these partitions.
    Take(Vec<T>, Vec<usize>),
    /// The lane is to look again at that time, or when it is woken.
    WaitUntil(Instant),
    /// The lane is to look again when it is woken.
    Wait,
    /// The lane is to end: nothing waits, and nothing more will arrive.
    End,
}

impl Arrivals {
    /// So many lanes' events, for each of which there is a taker. Batches have at
    /// most `full` events, and one that is not full begins at least `min_interval` after
    /// the one before.
    pub(super) fn of(lanes: usize, full: usize, min_interval: Duration) -> (Self, Vec<LaneEvents>) {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Schedule::new(lanes, full, min_interval)),
            woken: (0..lanes).map(|_| Notify::new()).collect(),
            in_hand: AtomicUsize::new(0),
        });
        let taker = |lane| LaneEvents {
            queue: Arc::clone(&queue),
            lane,
        };
        let lane_events = (0..lanes).map(taker).collect();
        (Self(queue), lane_events)
    }

    /// Returns a view of how much there is to do, of so many events at most.
    pub(crate) fn backlog(&self, most: usize) -> Backlog {
        let queue = Arc::clone(&self.0);
        Backlog { queue, most }
    }

    /// Adds an event. What waits is bounded by those who deliver.
    pub(crate) fn add(&self, work: Work) {
        let partition = partition_of(&work.event, PARTITIONS);
        let lane = partition % self.0.woken.len();
        if self.0.lock().add(partition, work) {
            self.0.woken[lane].notify_one();
        }
    }
}

impl Backlog {
    /// Whether events come faster than they are counted: half of all that can be
    /// there are, waiting or in a batch.
    pub(crate) fn is_large(&self) -> bool {
        let waiting = self.queue.lock().events.len();
        (waiting + self.queue.in_hand.load(Ordering::Relaxed)) * 2 >= self.most
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.wake_all();
    }
}

impl LaneEvents {
    /// Waits for a batch. `None` once nothing more will come.
    pub(super) async fn take(&self) -> Option<(Vec<Work>, HeldPartitions)> {
        loop {
            let woken = self.queue.woken[self.lane].notified();
            let next = self.queue.lock().next(self.lane, Instant::now());
            match next {
                NextStep::Take(works, partitions) => {
                    self.queue.wake_if_over();
                    let held = HeldPartitions {
                        queue: Arc::clone(&self.queue),
                        partitions,
                        events: works.len(),
                    };
                    held.queue.in_hand.fetch_add(held.events, Ordering::Relaxed);
                    return Some((works, held));
                }
                NextStep::WaitUntil(at) => {
                    // Woken or late, it is looked again.
                    let _ = tokio::time::timeout_at(at, woken).await;
                }
                NextStep::Wait => woken.await,
                NextStep::End => return None,
            }
        }
    }
}

impl Drop for HeldPartitions {
    fn drop(&mut self) {
        self.queue.in_hand.fetch_sub(self.events, Ordering::Relaxed);
        let lanes = self.queue.lock().release(&self.partitions);
        for lane in lanes {
            self.queue.woken[lane].notify_one();
        }
    }
}

impl Queue {
    /// Also after a panic: every change is whole before anything in it could panic.
    fn lock(&self) -> MutexGuard<'_, Schedule<Work>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for lane in &self.woken {
            lane.notify_one();
        }
    }

    /// Lanes that wait for what another just took may end.
    fn wake_if_over(&self) {
        let is_over = self.lock().is_over();
        if is_over {
            self.wake_all();
        }
    }
}

impl<T> Schedule<T> {
    fn new(lanes: usize, full: usize, min_interval: Duration) -> Self {
        Self {
            events: VecDeque::new(),
            held: vec![false; PARTITIONS],
            ready: vec![0; lanes],
            busy: 0,
            began: None,
            min_interval,
            full,
            is_closed: false,
        }
    }

    fn owner(&self, partition: usize) -> usize {
        partition % self.ready.len()
    }

    /// Adds an event; returns whether the lane whose partition it is has to
    /// look.
    fn add(&mut self, partition: usize, event: T) -> bool {
        self.events.push_back((partition, event));
        if self.held[partition] {
            return false;
        }
        let lane = self.owner(partition);
        self.ready[lane] += 1;
        let all: usize = self.ready.iter().sum();
        self.ready[lane] == 1 || self.ready[lane] == self.full || all == self.full
    }

    fn is_over(&self) -> bool {
        self.is_closed && self.events.is_empty()
    }

    fn next(&mut self, lane: usize, now: Instant) -> NextStep<T> {
        // Beside another lane, each has its own: two that take whatever they find
        // would each keep the other from most of what comes next.
        let is_alone = self.busy == 0;
        let ready = match is_alone {
            true => self.ready.iter().sum(),
            false => self.ready[lane],
        };
        if ready == 0 {
            return match self.is_over() {
                true => NextStep::End,
                false => NextStep::Wait,
            };
        }
        let due = self.began.map(|began| began + self.min_interval);
        if let Some(due) = due.filter(|due| now < *due && ready < self.full) {
            return NextStep::WaitUntil(due);
        }
        self.began = Some(now);
        self.busy += 1;
        let (events, partitions) = self.take(|waiting, partition| {
            let is_own = is_alone || waiting.owner(partition) == lane;
            is_own && !waiting.held[partition]
        });
        NextStep::Take(events, partitions)
    }

    /// Takes the oldest events of these partitions, at most a full batch, and holds
    /// the partitions of those.
    fn take(&mut self, takes: impl Fn(&Self, usize) -> bool) -> (Vec<T>, Vec<usize>) {
        let (mut taken, mut partitions) = (Vec::new(), Vec::new());
        for _ in 0..self.events.len() {
            let Some((partition, event)) = self.events.pop_front() else {
                break;
            };
            if taken.len() < self.full && takes(self, partition) {
                taken.push(event);
                partitions.push(partition);
            } else {
                self.events.push_back((partition, event));
            }
        }
        partitions.sort_unstable();
        partitions.dedup();
        for partition in &partitions {
            self.held[*partition] = true;
        }
        self.count();
        (taken, partitions)
    }

    /// Lets go of a batch's partitions; returns which lanes have to look.
    fn release(&mut self, partitions: &[usize]) -> Vec<usize> {
        self.busy -= 1;
        for partition in partitions {
            self.held[*partition] = false;
        }
        self.count();
        let lanes = self.ready.iter().enumerate();
        let ready = lanes.filter(|(_, ready)| **ready > 0);
        ready.map(|(lane, _)| lane).collect()
    }

    fn count(&mut self) {
        self.ready.fill(0);
        for (partition, _) in &self.events {
            if !self.held[*partition] {
                let lane = partition % self.ready.len();
                self.ready[lane] += 1;
            }
        }
    }
}

/// Which of so many partitions an event is of: that of its dialog where the producer
/// named it, else of its message; of its user where it states their type.
pub(crate) fn partition_of(event: &Event, partitions: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    event.tenant.hash(&mut hasher);
    match (&event.dialog_hint, &event.fact) {
        (_, Fact::UserTyped { user, .. }) => user.hash(&mut hasher),
        (Some(dialog), _) => dialog.hash(&mut hasher),
        (
            None,
            Fact::MessageDeleted { message }
            | Fact::StatusReached { message, .. }
            | Fact::ReactionChanged { message, .. },
        ) => message.hash(&mut hasher),
        // Every other event needs its dialog, and the hint is where it was found.
        (None, _) => {}
    }
    // The remainder fits: it is below the number of partitions.
    (hasher.finish() % partitions as u64) as usize
}

#[cfg(test)]
mod tests;
