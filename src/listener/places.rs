//! So many connections at the same time and no more, and who gives way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded number of places for connections. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

/// The places that are taken, and who would have to give way.
#[derive(Debug)]
struct Taken {
    limit: usize,
    count: usize,
    next: u64,
    holders: HashMap<u64, Holder>,
    /// Who may lose their place, the first to come first: they have said nothing
    /// yet.
    silent: BTreeMap<u64, u64>,
    /// The same, when none of those is left: they do nothing, whoever has done so
    /// for longest first.
    idle: BTreeMap<u64, u64>,
}

/// A connection that has a place.
#[derive(Debug)]
struct Holder {
    eviction: oneshot::Sender<()>,
    /// The turn among the silent, or the idle; `None` while it is busy.
    turn: Option<u64>,
    /// The number of calls that it has under way.
    busy: usize,
}

/// A place, until it is dropped. It may be [lost](Place::lost) to somebody who
/// comes later, while its holder has said nothing, or has nothing under way.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    number: u64,
    lost: Option<oneshot::Receiver<()>>,
}

/// The way in which room was made for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A place was free.
    Free,
    /// A connection that had said nothing yet gave way.
    ReplacedSilent,
    /// A connection that had nothing under way gave way.
    ReplacedIdle,
    /// All are taken, and none can be taken away.
    Full,
}

impl Places {
    /// Makes so many places.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            limit,
            count: 0,
            next: 0,
            holders: HashMap::new(),
            silent: BTreeMap::new(),
            idle: BTreeMap::new(),
        })))
    }

    /// Takes a place, unless all have something under way; and who gave way for it.
    pub(crate) fn take(&self) -> (Option<Place>, Admission) {
        let mut taken = self.lock();
        let admission = match taken.count >= taken.limit {
            false => Admission::Free,
            true => taken.one_gives_way(),
        };
        if admission == Admission::Full {
            return (None, admission);
        }
        let number = taken.turn();
        let (eviction, lost) = oneshot::channel();
        taken.count += 1;
        taken.silent.insert(number, number);
        let holder = Holder {
            eviction,
            turn: Some(number),
            busy: 0,
        };
        taken.holders.insert(number, holder);
        let place = Place {
            places: self.clone(),
            number,
            lost: Some(lost),
        };
        (Some(place), admission)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Those who say nothing are gone at once. The others may take a while, so
    /// that none more has to give way while many who lost their place are there.
    fn one_gives_way(&mut self) -> Admission {
        let is_crowded = self.count >= self.limit + self.limit.div_ceil(8);
        let (number, admission) = match (self.silent.pop_first(), self.idle.first_key_value()) {
            (Some((_, number)), _) => (number, Admission::ReplacedSilent),
            (None, Some((turn, number))) if !is_crowded => {
                let (turn, number) = (*turn, *number);
                self.idle.remove(&turn);
                (number, Admission::ReplacedIdle)
            }
            (None, _) => return Admission::Full,
        };
        if let Some(holder) = self.holders.remove(&number) {
            // Whoever had it may be gone already: all the better.
            let _ = holder.eviction.send(());
        }
        admission
    }

    fn rest(&mut self, number: u64) {
        let turn = self.turn();
        if let Some(holder) = self.holders.get_mut(&number) {
            holder.turn = Some(turn);
            self.idle.insert(turn, number);
        }
    }
}

impl Place {
    /// Returns when the place is another's.
    pub(crate) async fn lost(&mut self) {
        if let Some(lost) = &mut self.lost {
            let _ = lost.await;
        }
    }

    /// Returns when the place is another's, apart from the place itself.
    pub(crate) fn when_lost(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let lost = self.lost.take();
        async move {
            let is_lost = match lost {
                Some(lost) => lost.await.is_ok(),
                None => false,
            };
            if !is_lost {
                std::future::pending().await
            }
        }
    }

    /// Marks that the holder has spoken: the place is lost only while nothing is under
    /// way.
    pub(crate) fn heard(&self) -> Activity {
        let mut taken = self.places.lock();
        if taken.silent.remove(&self.number).is_some() {
            taken.rest(self.number);
        }
        Activity {
            places: self.places.clone(),
            number: self.number,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.count -= 1;
        if let Some(turn) = taken
            .holders
            .remove(&self.number)
            .and_then(|holder| holder.turn)
        {
            taken.silent.remove(&turn);
            taken.idle.remove(&turn);
        }
    }
}

/// Says what the holder of a place has under way.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    places: Places,
    number: u64,
}

/// Something under way; over when this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Activity);

impl Activity {
    /// Marks that something begins, until the result is dropped.
    pub(crate) fn begin(&self) -> Busy {
        let mut taken = self.places.lock();
        if let Some(holder) = taken.holders.get_mut(&self.number) {
            holder.busy += 1;
            if let Some(turn) = holder.turn.take() {
                taken.idle.remove(&turn);
            }
        }
        drop(taken);
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { places, number } = &self.0;
        let mut taken = places.lock();
        let Some(holder) = taken.holders.get_mut(number) else {
            return;
        };
        holder.busy -= 1;
        if holder.busy == 0 {
            taken.rest(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_lost(place: &mut Place) -> bool {
        let short = Duration::from_millis(1);
        tokio::time::timeout(short, place.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_that_said_nothing_gives_way() {
        let places = Places::new(3);
        let mut first = places.take().0.unwrap();
        let mut second = places.take().0.unwrap();
        let mut third = places.take().0.unwrap();
        let busy = first.heard().begin();
        let (fourth, admission) = places.take();
        assert_eq!(admission, Admission::ReplacedSilent);
        assert!(!is_lost(&mut first).await);
        assert!(is_lost(&mut second).await);
        assert!(!is_lost(&mut third).await);
        drop(second);

        let fourth = fourth.unwrap();
        let others = [fourth.heard().begin(), third.heard().begin()];
        assert!(matches!(places.take(), (None, Admission::Full)));
        assert!(!is_lost(&mut third).await);
        drop((first, busy));
        let (fifth, admission) = places.take();
        assert!(fifth.is_some() && admission == Admission::Free);
        drop(others);
    }

    #[tokio::test]
    async fn whoever_has_done_nothing_for_longest_gives_way_then() {
        let places = Places::new(2);
        let mut first = places.take().0.unwrap();
        let mut second = places.take().0.unwrap();
        let (active, _) = (first.heard(), second.heard());
        let calls = [active.begin(), active.begin()];
        drop(calls);
        let (third, admission) = places.take();
        assert_eq!(admission, Admission::ReplacedIdle);
        assert!(is_lost(&mut second).await, "the first was active after it");
        drop(second);
        let _busy = third.unwrap().heard();
        assert!(!is_lost(&mut first).await);
    }
}
