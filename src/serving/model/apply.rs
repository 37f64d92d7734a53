//! What commit records do to what is held.

use crate::event::Micros;
use crate::store::commit_log::{DialogChanged, Record, ShareChanged};

use super::entries::Entries;
use super::totals::Direction;

/// For whom records are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppliedTo {
    /// Everybody who is held: all are where the records begin.
    All,
    /// Those just put in, who are not counted yet: the others, and their
    /// dialogs, are where the records end.
    New,
}

/// What a record says about a dialog that is held.
#[derive(Debug)]
pub(super) struct Change<'r> {
    dialog: u32,
    at: Micros,
    /// What the record says of the dialog.
    of: &'r DialogChanged,
}

impl Entries {
    /// Picks out of records what concerns those who are held. Puts in dialogs
    /// that they have a first share of.
    pub(super) fn pick<'r>(
        &mut self,
        records: impl Iterator<Item = &'r Record> + Clone,
        whom: AppliedTo,
    ) -> Vec<Change<'r>> {
        let mut changes = Vec::new();
        let mut put_in = false;
        for record in records.clone() {
            put_in |= self.pick_from(record, whom, &mut changes);
        }
        // A dialog that was put in for one record may have changed by others
        // that were passed over.
        if put_in {
            changes.clear();
            for record in records {
                self.pick_from(record, whom, &mut changes);
            }
        }
        changes
    }

    /// Whether a dialog was put in.
    fn pick_from<'r>(
        &mut self,
        record: &'r Record,
        whom: AppliedTo,
        changes: &mut Vec<Change<'r>>,
    ) -> bool {
        let mut put_in = false;
        for changed in &record.dialogs {
            let key = &changed.key;
            let Some(tenant) = self.tenant(&key.tenant) else {
                continue;
            };
            let dialog = match self.dialog_of(tenant, &key.dialog) {
                Some(dialog) => dialog,
                None if self.has_a_share(tenant, changed, whom) => {
                    put_in = true;
                    self.add_dialog(&key.tenant, key.dialog.clone())
                }
                None => continue,
            };
            changes.push(Change {
                dialog,
                at: record.at,
                of: changed,
            });
        }
        put_in
    }

    fn has_a_share(&self, tenant: u32, changed: &DialogChanged, whom: AppliedTo) -> bool {
        let mut shares = changed.shares.iter();
        shares.any(|share| self.concerned(tenant, share, whom).is_some())
    }

    fn concerned(&self, tenant: u32, share: &ShareChanged, whom: AppliedTo) -> Option<u32> {
        let user = self.user_of(tenant, &share.user)?;
        let counted = self.users[user as usize].counted;
        (whom == AppliedTo::All || !counted).then_some(user)
    }

    /// Applies what was picked, of each dialog in the order in which it
    /// happened. Dialogs do not hang on each other, so theirs is any.
    pub(super) fn apply(&mut self, mut changes: Vec<Change<'_>>, whom: AppliedTo) {
        changes.sort_by_key(|change| (change.dialog, change.of.now.version));
        for of_dialog in changes.chunk_by(|one, other| one.dialog == other.dialog) {
            let dialog = of_dialog[0].dialog;
            // Those just put in are not watched yet.
            let before = self
                .visible_state(dialog)
                .filter(|_| whom == AppliedTo::All);
            if whom == AppliedTo::All {
                self.count(dialog, Direction::Out);
            }
            for change in of_dialog {
                self.apply_one(change, whom);
            }
            if whom == AppliedTo::All {
                self.count(dialog, Direction::In);
            }
            if let Some(before) = before {
                let changed = of_dialog.iter().map(|change| change.of);
                self.note_touched(dialog, &before, changed);
            }
        }
    }

    fn apply_one(&mut self, change: &Change<'_>, whom: AppliedTo) {
        let Change { dialog, at, of } = *change;
        // One that is held, or was read later, may have it already.
        if of.now.version > self.dialogs[dialog as usize].version {
            self.change_dialog(dialog, |dialog, types| dialog.became(&of.now, at, types));
        }
        let tenant = self.dialogs[dialog as usize].tenant;
        for changed in &of.shares {
            let Some(user) = self.concerned(tenant, changed, whom) else {
                continue;
            };
            let share = self.share(user, dialog);
            let share = share.unwrap_or_else(|| self.add_share(user, dialog));
            self.change_both(user, dialog, |user, dialog, types| {
                user.change(share, changed, at, dialog, types);
            });
        }
    }
}
