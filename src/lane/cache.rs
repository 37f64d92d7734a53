//! What a lane remembers between batches. Never needed for correctness: a
//! commit is refused when a remembered dialog has moved on, and the journal
//! knows every event.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::derive::Changes;
use crate::derive::state::{Dialog, DialogKey, EventKey};

/// Events remembered as committed: about what a producer's retry or a broker's
/// redelivery repeats soon after.
const REMEMBERED_EVENTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Dialogs as last committed, and events committed lately.
#[derive(Debug)]
pub struct Cache {
    dialogs: LruCache<DialogKey, Dialog>,
    events: LruCache<EventKey, ()>,
}

impl Cache {
    /// Remembers at most that many dialogs.
    pub fn new(dialogs: usize) -> Self {
        let dialogs = NonZeroUsize::new(dialogs).unwrap_or(NonZeroUsize::MIN);
        Self {
            dialogs: LruCache::new(dialogs),
            events: LruCache::new(REMEMBERED_EVENTS),
        }
    }

    /// A dialog as it was when last seen.
    pub fn dialog(&mut self, key: &DialogKey) -> Option<Dialog> {
        self.dialogs.get(key).cloned()
    }

    /// Whether the event is known to be in the journal.
    pub fn has_event(&mut self, key: &EventKey) -> bool {
        self.events.get(key).is_some()
    }

    /// Remembers what was just committed.
    pub fn committed(&mut self, changes: Changes) {
        for (key, change) in changes.dialogs {
            self.dialogs.put(key, change.now);
        }
        for taken in changes.taken {
            let key = EventKey {
                tenant: taken.event.tenant,
                event: taken.event.stamp.event,
            };
            self.events.put(key, ());
        }
    }

    /// Forgets the dialogs: someone else has changed one of them.
    pub fn forget<'k>(&mut self, dialogs: impl Iterator<Item = &'k DialogKey>) {
        for key in dialogs {
            self.dialogs.pop(key);
        }
    }

    /// Forgets all dialogs: they are elsewhere now.
    pub fn forget_dialogs(&mut self) {
        self.dialogs.clear();
    }
}
