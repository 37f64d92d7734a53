//! Who waits in this process for events to be taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::derive::state::EventKey;

/// Those who wait for events. Of events that this process takes the feed of commits
/// tells them; for those of others somebody looks in the store. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct EventWaiters(Arc<Mutex<Waiters>>);

#[derive(Debug, Default)]
struct Waiters {
    /// Who waits for which event.
    by_event: HashMap<EventKey, watch::Sender<bool>>,
    /// Whether somebody looks.
    is_looking: bool,
}

impl EventWaiters {
    /// Adds one who waits for an event. Returns what becomes `true` once the event is
    /// taken, and whether nobody looked in the store so far: the caller has to see to
    /// it then.
    pub(super) fn join(&self, event: EventKey) -> (watch::Receiver<bool>, bool) {
        let mut waiters = self.lock();
        let taken = waiters.by_event.entry(event).or_default().subscribe();
        let was_looking = std::mem::replace(&mut waiters.is_looking, true);
        (taken, !was_looking)
    }

    /// Tells those who wait for these events that they are taken.
    pub(super) fn taken(&self, events: impl Iterator<Item = EventKey>) {
        let mut waiters = self.lock();
        for event in events {
            if waiters.by_event.is_empty() {
                return;
            }
            if let Some(waiting) = waiters.by_event.remove(&event) {
                waiting.send_replace(true);
            }
        }
    }

    /// Returns the events that somebody still waits for; `None` if there are none, and
    /// nobody looks any more then.
    pub(super) fn wanted(&self) -> Option<Vec<EventKey>> {
        let mut waiters = self.lock();
        waiters
            .by_event
            .retain(|_, waiting| waiting.receiver_count() > 0);
        waiters.is_looking = !waiters.by_event.is_empty();
        let keys = waiters.by_event.keys().cloned().collect();
        waiters.is_looking.then_some(keys)
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, TenantId};

    fn event(name: &str) -> EventKey {
        EventKey {
            tenant: TenantId::new("t").expect("short"),
            event: EventId::new(name).expect("short"),
        }
    }

    #[test]
    fn those_who_wait_for_an_event_learn_that_this_process_took_it() {
        let waiters = EventWaiters::default();
        let wait = |name| waiters.join(event(name)).0;
        let (first, second, other) = (wait("e1"), wait("e1"), wait("e2"));
        waiters.taken(["e0", "e1"].map(event).into_iter());
        assert!(*first.borrow() && *second.borrow());
        assert!(!*other.borrow());
        assert_eq!(waiters.wanted(), Some(vec![event("e2")]));
        drop(other);
        assert_eq!(waiters.wanted(), None);
    }
}
