//! What lanes remember between batches. Never needed for correctness: a
//! commit is refused when a remembered dialog has moved on, and the journal
//! knows every event.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::derive::Changes;
use crate::derive::state::{Dialog, DialogKey, EventKey};

/// The most events remembered as committed: about as many as a producer's retry
/// or a broker's redelivery repeats soon after.
const MAX_EVENTS: usize = 16_384;
/// The part of a cache's bytes that is for events: one divided by this.
const EVENT_BYTES_DIVISOR: usize = 4;

/// About how many bytes an entry takes beside its texts: itself, its place in
/// the list and in the table, and what the allocator puts around each.
const ENTRY_BYTES: usize = 256;
/// About how many bytes a text takes beside its characters.
const TEXT_BYTES: usize = 32;

/// The dialogs as last committed, and the events committed lately. Clones share
/// it: what a lane has committed another may go on with.
#[derive(Debug, Clone)]
pub(super) struct Cache(Arc<Mutex<Remembered>>);

#[derive(Debug)]
struct Remembered {
    /// The epoch of the generations that the dialogs are of.
    epoch: i64,
    dialogs: WeighedLru<DialogKey, Dialog>,
    events: WeighedLru<EventKey, ()>,
}

impl Cache {
    /// Remembers at most that many dialogs, and takes about so many bytes.
    pub(super) fn new(dialogs: usize, bytes: usize) -> Self {
        let for_events = bytes / EVENT_BYTES_DIVISOR;
        Self(Arc::new(Mutex::new(Remembered {
            epoch: 0,
            dialogs: WeighedLru::new(dialogs, bytes - for_events),
            events: WeighedLru::new(MAX_EVENTS, for_events),
        })))
    }

    /// A dialog as it was when last seen, in the generations of this epoch.
    pub(super) fn dialog(&self, epoch: i64, key: &DialogKey) -> Option<Dialog> {
        let mut remembered = self.lock();
        remembered.turn_to(epoch);
        let (dialog, _) = remembered.dialogs.entries.get(key)?;
        Some(dialog.clone())
    }

    /// Whether the event is known to be in the journal.
    pub(super) fn has_event(&self, key: &EventKey) -> bool {
        self.lock().events.entries.get(key).is_some()
    }

    /// Remembers what was just committed in the generations of this epoch.
    pub(super) fn committed(&self, epoch: i64, changes: Changes) {
        let mut remembered = self.lock();
        remembered.turn_to(epoch);
        for (key, change) in changes.dialogs {
            let bytes = dialog_bytes(&key, &change.now);
            remembered.dialogs.put(key, change.now, bytes);
        }
        for taken in changes.taken {
            let key = EventKey {
                tenant: taken.event.tenant,
                event: taken.event.stamp.event,
            };
            let bytes = ENTRY_BYTES + text(key.tenant.as_str()) + text(key.event.as_str());
            remembered.events.put(key, (), bytes);
        }
    }

    /// Forgets the dialogs: someone else has changed one of them.
    pub(super) fn forget<'k>(&self, dialogs: impl Iterator<Item = &'k DialogKey>) {
        let mut remembered = self.lock();
        for key in dialogs {
            remembered.dialogs.forget(key);
        }
    }

    /// A panic in the middle of a change leaves at worst a wrong weight.
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    /// Turns to this epoch, and forgets the dialogs of another.
    fn turn_to(&mut self, epoch: i64) {
        if epoch != self.epoch {
            self.dialogs.clear();
            self.epoch = epoch;
        }
    }
}

/// About what a remembered dialog takes, in bytes.
fn dialog_bytes(key: &DialogKey, dialog: &Dialog) -> usize {
    let types = dialog.sequence.iter();
    let types: usize = types.map(|(name, _)| text(name.as_str())).sum();
    ENTRY_BYTES + text(key.tenant.as_str()) + text(key.dialog.as_str()) + types
}

/// About what a text takes that nothing else holds, in bytes.
fn text(text: &str) -> usize {
    TEXT_BYTES + text.len()
}

/// A cache of the entries used last, bounded in number and in bytes.
#[derive(Debug)]
struct WeighedLru<K: Eq + Hash, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl<K: Eq + Hash, V> WeighedLru<K, V> {
    fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
            most,
            most_bytes,
        }
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        self.bytes += bytes;
        if let Some((_, before)) = self.entries.put(key, (value, bytes)) {
            self.bytes -= before;
        }
        while self.entries.len() > self.most || self.bytes > self.most_bytes {
            let Some((_, (_, bytes))) = self.entries.pop_lru() else {
                return;
            };
            self.bytes -= bytes;
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some((_, bytes)) = self.entries.pop(key) {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is put and forgotten: what is weighed is what is there, and
        /// within the bounds.
        #[test]
        fn what_is_remembered_stays_within_its_bounds(
            steps in prop::collection::vec((0_u8..12, 0_usize..60, any::<bool>()), 0..200),
        ) {
            let mut entries = WeighedLru::new(8, 200);
            for (key, bytes, forget) in steps {
                if forget {
                    entries.forget(&key);
                } else {
                    entries.put(key, (), bytes);
                    prop_assert!(entries.entries.contains(&key));
                }
                let weighed: usize = entries.entries.iter().map(|(_, (_, bytes))| bytes).sum();
                prop_assert_eq!(weighed, entries.bytes);
                prop_assert!(entries.entries.len() <= 8 && weighed <= 200);
            }
        }
    }
}
