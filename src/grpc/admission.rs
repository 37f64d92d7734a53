//! Places for calls: how many may be under way at once, and who may have how
//! many of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most places that one caller may hold, as a multiple of the places that are free: as
/// many as are free. So a single caller gets half of all, and whoever comes then still
/// finds some.
const CALLER_MULTIPLE_OF_FREE: usize = 1;
/// The most places that the calls about one tenant may hold, as a multiple of the places
/// that are free: three times as many, which comes to three quarters of all. That is more
/// than one caller gets, who is not to keep others from asking about the same tenant.
const TENANT_MULTIPLE_OF_FREE: usize = 3;

/// Among whom places are shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Sharer {
    /// By whom a call was made.
    Caller(String),
    /// About whom a call asks.
    Tenant(String),
}

/// A bounded number of places, shared fairly. Clones are the same places.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Pool>);

/// All places, and who has them.
#[derive(Debug)]
struct Pool {
    size: usize,
    taken: Mutex<Taken>,
}

/// The places that are taken, in all and by whom.
#[derive(Debug, Default)]
struct Taken {
    count: usize,
    by: HashMap<Sharer, usize>,
}

/// A place that a call holds; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Places,
    sharers: Vec<Sharer>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are taken.
    All,
    /// The caller has their share of the places.
    Caller,
    /// The calls about the tenant have their share of the places.
    Tenant,
}

impl Places {
    /// Makes so many places, all of them free.
    pub(super) fn new(size: usize) -> Self {
        Self(Arc::new(Pool {
            size,
            taken: Mutex::default(),
        }))
    }

    /// Takes a place on account of all these.
    pub(super) fn take(&self, sharers: Vec<Sharer>) -> Result<Place, Full> {
        let mut taken = self.taken();
        let free = self.0.size.saturating_sub(taken.count);
        if free == 0 {
            return Err(Full::All);
        }
        let has_its_share = |sharer: &&Sharer| {
            let held = taken.by.get(*sharer).copied().unwrap_or_default();
            let share = match sharer {
                Sharer::Caller(_) => CALLER_MULTIPLE_OF_FREE,
                Sharer::Tenant(_) => TENANT_MULTIPLE_OF_FREE,
            };
            held >= free * share
        };
        match sharers.iter().find(has_its_share) {
            Some(Sharer::Caller(_)) => return Err(Full::Caller),
            Some(Sharer::Tenant(_)) => return Err(Full::Tenant),
            None => {}
        }
        taken.count += 1;
        for sharer in &sharers {
            match taken.by.get_mut(sharer) {
                Some(held) => *held += 1,
                None => {
                    taken.by.insert(sharer.clone(), 1);
                }
            }
        }
        drop(taken);
        let of = self.clone();
        Ok(Place { of, sharers })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.count -= 1;
        for sharer in &self.sharers {
            // Who holds none is forgotten: there is no end to names.
            match taken.by.get_mut(sharer) {
                Some(held) if *held > 1 => *held -= 1,
                _ => {
                    taken.by.remove(sharer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Vec<Sharer> {
        vec![Sharer::Caller(name.into()), Sharer::Tenant(name.into())]
    }

    #[test]
    fn one_caller_gets_half_and_others_still_find_some() {
        let places = Places::new(256);
        let of = |name: &'static str| std::iter::from_fn(|| places.take(tenant(name)).ok());
        let loud: Vec<Place> = of("loud").collect();
        assert_eq!(loud.len(), 128);
        let second: Vec<Place> = of("second").collect();
        assert_eq!(second.len(), 64);
        assert!(places.take(tenant("third")).is_ok());
        assert_eq!(places.take(tenant("loud")).unwrap_err(), Full::Caller);
    }

    #[test]
    fn one_caller_leaves_the_tenant_s_others_some() {
        let places = Places::new(256);
        let by = |caller: &str| vec![Sharer::Caller(caller.into()), Sharer::Tenant("t".into())];
        let loud: Vec<Place> = std::iter::from_fn(|| places.take(by("loud")).ok()).collect();
        assert_eq!(loud.len(), 128);
        assert!(places.take(by("other")).is_ok());
    }

    #[test]
    fn each_of_several_sharers_counts() {
        let places = Places::new(4);
        let by = |caller: &str| vec![Sharer::Caller(caller.into()), Sharer::Tenant("t".into())];
        let held = ["a", "b", "c"].map(|caller| places.take(by(caller)).unwrap());
        assert_eq!(places.take(by("d")).unwrap_err(), Full::Tenant);
        drop(held);
    }

    #[test]
    fn places_come_back_and_names_are_forgotten() {
        let places = Places::new(1);
        let only = places.take(tenant("a")).unwrap();
        assert_eq!(places.take(tenant("b")).unwrap_err(), Full::All);
        drop(only);
        assert!(places.taken().by.is_empty());
        assert!(places.take(tenant("b")).is_ok());
    }
}
