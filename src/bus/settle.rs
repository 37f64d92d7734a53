//! Acknowledging: as few frames as possible, never more than is finished.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;

use super::delivery::{Settlement, Tag};
use super::error::BusError;
use crate::failpoint::{self, Point};

/// The most settlements that are taken up together.
const MAX_BATCH: usize = 4096;
/// Finished deliveries may wait behind an unfinished one up to this share of
/// the window; then they are acknowledged one by one.
const WAITING_SHARE: usize = 4;
/// How long finished deliveries wait behind an unfinished one for others to be acknowledged
/// with.
const QUIET_INTERVAL: Duration = Duration::from_millis(200);

/// Tells the broker what became of the deliveries of one channel, until the
/// last of them is settled.
///
/// `in_flight` goes down by one for each. Finished deliveries behind an
/// unfinished one wait for it, a share of the window at most and only while others
/// follow: they are told one by one once it is quiet for [`QUIET_INTERVAL`], or when one
/// of them was delivered before.
///
/// # Errors
/// When the channel is lost; what was not told is redelivered by the broker.
pub(super) async fn settle(
    channel: Channel,
    mut settlements: mpsc::UnboundedReceiver<(Tag, Settlement)>,
    in_flight: Arc<AtomicUsize>,
    window: Arc<AtomicUsize>,
) -> Result<(), BusError> {
    let mut ledger = Ledger::default();
    let mut batch = Vec::with_capacity(MAX_BATCH);
    loop {
        let more = settlements.recv_many(&mut batch, MAX_BATCH);
        let settled = if ledger.waiting == 0 {
            more.await
        } else if let Ok(settled) = tokio::time::timeout(QUIET_INTERVAL, more).await {
            settled
        } else {
            acknowledge(&channel, &mut ledger, 0).await?;
            continue;
        };
        if settled == 0 {
            return acknowledge(&channel, &mut ledger, 0).await;
        }
        let mut bound = window.load(Ordering::Relaxed) / WAITING_SHARE;
        let mut requeued = Vec::new();
        for (tag, outcome) in batch.drain(..) {
            ledger.record(tag, outcome);
            match outcome {
                Settlement::Requeue => requeued.push(tag),
                Settlement::AckNow => bound = 0,
                Settlement::Ack => {}
            }
        }
        requeue(&channel, requeued).await?;
        acknowledge(&channel, &mut ledger, bound).await?;
        in_flight.fetch_sub(settled, Ordering::Relaxed);
    }
}

async fn acknowledge(channel: &Channel, ledger: &mut Ledger, bound: usize) -> Result<(), BusError> {
    let lost = |error| BusError::while_doing("acknowledging", &error);
    if let Some(tag) = ledger.prefix() {
        let all_up_to = BasicAckOptions { multiple: true };
        failpoint::pass(Point::BeforeAck);
        channel.basic_ack(tag, all_up_to).await.map_err(lost)?;
        failpoint::pass(Point::AfterAck);
    }
    if ledger.waiting > bound {
        let one = BasicAckOptions { multiple: false };
        let tags = ledger.beyond();
        let acks = tags.into_iter().map(|tag| channel.basic_ack(tag, one));
        try_join_all(acks).await.map_err(lost)?;
    }
    Ok(())
}

pub(super) async fn requeue(channel: &Channel, tags: Vec<Tag>) -> Result<(), BusError> {
    let one = BasicNackOptions {
        multiple: false,
        requeue: true,
    };
    let nacks = tags.into_iter().map(|tag| channel.basic_nack(tag, one));
    let lost = |error| BusError::while_doing("giving deliveries back", &error);
    try_join_all(nacks).await.map_err(lost)?;
    Ok(())
}

/// Which deliveries of a channel are finished, and of which the broker knows.
#[derive(Debug, Default)]
struct Ledger {
    /// Every tag up to and including this one is finished and told.
    told: Tag,
    /// The tags after it, in order.
    states: VecDeque<TagState>,
    /// How many of them are [`TagState::Finished`].
    waiting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagState {
    /// The delivery is not settled.
    Open,
    /// The delivery is settled, and the broker does not know yet.
    Finished,
    /// The broker knows, or was told to deliver it again.
    Told,
}

impl Ledger {
    /// Notes a settlement. A requeued delivery counts as told: the caller does
    /// so at once. Tags that were settled before are ignored.
    fn record(&mut self, tag: Tag, outcome: Settlement) {
        let Some(place) = self.place(tag) else { return };
        if self.states.len() <= place {
            self.states.resize(place + 1, TagState::Open);
        }
        if self.states[place] == TagState::Open {
            self.states[place] = match outcome {
                Settlement::Ack | Settlement::AckNow => TagState::Finished,
                Settlement::Requeue => TagState::Told,
            };
            self.waiting += usize::from(outcome != Settlement::Requeue);
        }
    }

    fn place(&self, tag: Tag) -> Option<usize> {
        let after = tag.checked_sub(self.told)?.checked_sub(1)?;
        usize::try_from(after).ok()
    }

    /// Moves past all that is finished in a row, and returns the tag up to which to
    /// acknowledge, if there is something to: one that the broker still
    /// waits for, since it takes an acknowledgement of any other for an error.
    fn prefix(&mut self) -> Option<Tag> {
        let mut last = None;
        while let Some(mark) = self.states.front().copied() {
            if mark == TagState::Open {
                break;
            }
            self.states.pop_front();
            self.told += 1;
            if mark == TagState::Finished {
                self.waiting -= 1;
                last = Some(self.told);
            }
        }
        last
    }

    /// Takes all that is finished behind the row, to be acknowledged one by one.
    fn beyond(&mut self) -> Vec<Tag> {
        self.waiting = 0;
        let mut tags = Vec::new();
        for (tag, mark) in (self.told + 1..).zip(&mut self.states) {
            if *mark == TagState::Finished {
                *mark = TagState::Told;
                tags.push(tag);
            }
        }
        tags
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_of_finished_deliveries_is_one_acknowledgement() {
        let mut ledger = Ledger::default();
        for tag in [2, 3, 5] {
            ledger.record(tag, Settlement::Ack);
        }
        assert_eq!(ledger.prefix(), None);
        ledger.record(1, Settlement::Ack);
        assert_eq!(ledger.prefix(), Some(3));
        assert_eq!(ledger.beyond(), [5]);
        ledger.record(4, Settlement::Ack);
        assert_eq!(ledger.prefix(), Some(4));
        assert_eq!(ledger.told, 5);
        assert_eq!(ledger.prefix(), None);
    }

    /// A broker's side of one channel, strict as RabbitMQ is.
    struct Broker {
        open: BTreeSet<Tag>,
        finished: BTreeSet<Tag>,
    }

    impl Broker {
        fn ack(&mut self, tag: Tag, multiple: bool) {
            assert!(self.open.contains(&tag), "unknown delivery tag {tag}");
            let covered: Vec<Tag> = match multiple {
                true => self.open.range(..=tag).copied().collect(),
                false => vec![tag],
            };
            for tag in covered {
                assert!(self.finished.contains(&tag), "{tag} is not finished");
                self.open.remove(&tag);
            }
        }
    }

    proptest! {
        /// Whatever the order in which deliveries end: nothing unfinished is
        /// acknowledged, nothing is acknowledged twice, nothing is forgotten.
        #[test]
        fn acknowledgements_cover_exactly_what_is_finished(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            requeued in proptest::collection::btree_set(1..=60u64, 0..20),
            chunk in 1usize..20,
            bound in 0usize..20,
        ) {
            let mut ledger = Ledger::default();
            let mut broker = Broker { open: (1..=60).collect(), finished: BTreeSet::new() };
            for tags in order.chunks(chunk) {
                for &tag in tags {
                    if requeued.contains(&tag) {
                        ledger.record(tag, Settlement::Requeue);
                        broker.open.remove(&tag);
                    } else {
                        broker.finished.insert(tag);
                        ledger.record(tag, Settlement::Ack);
                    }
                }
                if let Some(tag) = ledger.prefix() {
                    broker.ack(tag, true);
                }
                if ledger.waiting > bound {
                    ledger.beyond().into_iter().for_each(|tag| broker.ack(tag, false));
                }
                let unknown = broker.finished.iter().filter(|tag| broker.open.contains(tag)).count();
                prop_assert!(unknown <= bound);
                prop_assert_eq!(unknown, ledger.waiting);
            }
            prop_assert!(broker.open.is_empty());
            prop_assert!(ledger.states.is_empty());
        }
    }
}
