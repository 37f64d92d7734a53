//! The model against a store that keeps every state it had.

mod measure;
mod pins;
mod property;
mod rules;
pub(in crate::serving) mod store;

use super::Model;
use super::lru::Evictable;

impl Model {
    /// What is said twice in memory says the same, and every byte is counted.
    pub(in crate::serving) fn check(&self) {
        let entries = &self.entries;
        let (bytes, recounted) = entries.recounted();
        assert_eq!(bytes, recounted);
        for (number, user) in &entries.users {
            assert!(user.counted && user.place.is_some() != user.pinned.is_some());
            let mut before = None;
            for (rank, share) in user.order.iter().enumerate() {
                let found = &user.shares[*share as usize];
                assert_eq!(found.rank as usize, rank);
                let dialog = &entries.dialogs[found.dialog as usize];
                let sharer = dialog.sharers[found.place as usize];
                assert_eq!((sharer.user as usize, sharer.share), (number, *share));
                assert!(before.replace(&dialog.id) < Some(&dialog.id));
            }
            assert_eq!(user.order.len(), user.shares.len());
        }
        for (_, dialog) in &entries.dialogs {
            let is_alone = dialog.sharers.is_empty() && dialog.pinned.is_none();
            assert_eq!(is_alone, dialog.place.is_some());
            for sharer in &dialog.sharers {
                assert!(entries.users.contains(sharer.user as usize));
            }
        }
        if entries.users.is_empty() && entries.dialogs.is_empty() {
            assert_eq!((bytes, entries.lru.oldest()), (0, None::<Evictable>));
        }
        if self.loads.is_empty() {
            assert_eq!(self.loads.recounted(), 0);
        }
    }
}
