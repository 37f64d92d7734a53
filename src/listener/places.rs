//! So many connections at the same time and no more, and who gives way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A number of places. Clones share them.
#[derive(Debug, Clone)]
pub struct Places(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    limit: usize,
    count: usize,
    next: u64,
    /// Who may lose their place, oldest first.
    yielding: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place, until it is dropped. One that is not [kept](Place::keep) may be
/// [lost](Place::lost) to somebody who comes later.
#[derive(Debug)]
pub struct Place {
    places: Places,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Places {
    /// So many.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            limit,
            count: 0,
            next: 0,
            yielding: BTreeMap::new(),
        })))
    }

    /// A place, unless all are kept; and whether all were taken, so that the
    /// oldest that is not kept was lost for it.
    pub fn take(&self) -> (Option<Place>, bool) {
        let mut taken = self.lock();
        let was_full = taken.count >= taken.limit;
        if was_full {
            match taken.yielding.pop_first() {
                // Whoever had it may be gone already: all the better.
                Some((_, lost)) => drop(lost.send(())),
                None => return (None, true),
            }
        }
        let number = taken.next;
        let (loser, lost) = oneshot::channel();
        taken.next += 1;
        taken.count += 1;
        taken.yielding.insert(number, loser);
        let place = Place {
            places: self.clone(),
            number,
            lost,
        };
        (Some(place), was_full)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns when the place is another's. Never, once it is kept.
    pub async fn lost(&mut self) {
        match (&mut self.lost).await {
            Ok(()) => {}
            Err(_kept) => std::future::pending().await,
        }
    }

    /// From now on it is not lost.
    pub fn keep(&mut self) {
        self.places.lock().yielding.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.count -= 1;
        taken.yielding.remove(&self.number);
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
    async fn the_oldest_that_is_not_kept_gives_way() {
        let places = Places::new(3);
        let mut first = places.take().0.unwrap();
        let mut second = places.take().0.unwrap();
        let mut third = places.take().0.unwrap();
        first.keep();
        let (fourth, was_full) = places.take();
        assert!(was_full);
        assert!(!is_lost(&mut first).await);
        assert!(is_lost(&mut second).await);
        assert!(!is_lost(&mut third).await);
        drop(second);

        let mut fourth = fourth.unwrap();
        fourth.keep();
        third.keep();
        assert!(matches!(places.take(), (None, true)));
        assert!(!is_lost(&mut third).await);
        drop(first);
        let (fifth, was_full) = places.take();
        assert!(fifth.is_some() && !was_full);
    }
}
