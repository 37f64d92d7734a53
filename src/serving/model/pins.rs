//! Who is watched: they are not let go, and what changes about them is noted.

use crate::event::{DialogId, TenantId, UserId};
use crate::store::commit_log::Record;
use crate::store::read::{DialogStats, UserDialogStats, UserStats};

use super::Model;
use super::apply::Change;
use super::dialog::{Dialog, Moment};
use super::entries::Entries;
use super::lru::Evictable;
use super::types::TypeId;

/// Of the memory, one in so many parts may be taken by those who are pinned: the
/// rest is for everybody else.
const PINNED_SHARE: usize = 2;
/// What a share of a dialog takes beside the share itself, at most: the dialog,
/// which mostly others have a share of as well.
const BYTES_BESIDE_A_SHARE: usize = 300;

/// Somebody, or a dialog, that is held until it is unpinned. Void once everything
/// is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Its number among users, or among dialogs, for as long as it is not void.
    pub number: u32,
    serial: u64,
}

/// Explains why somebody is not pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPinned {
    /// They are not held: to be loaded first.
    NotHeld,
    /// Those who are pinned have their share of the memory.
    NoRoom,
}

/// What changed about those who are pinned, by their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The users, each with the dialog in which something changed for them.
    pub users: Vec<(u32, u32)>,
    /// The dialogs whose own counters changed.
    pub dialogs: Vec<u32>,
}

/// The pins on one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinned {
    serial: u64,
    times: u32,
    weight: usize,
}

/// The account of all pins: how much they hold, and what changed about them.
#[derive(Debug, Default)]
pub(super) struct Pins {
    serial: u64,
    entries: usize,
    bytes: usize,
    touched: Touched,
    lost: bool,
}

impl Pins {
    /// Notes that one that was pinned is no longer held.
    pub(super) fn lose(&mut self, pinned: Option<Pinned>) {
        if let Some(pinned) = pinned {
            self.entries -= 1;
            self.bytes -= pinned.weight;
            self.lost = true;
        }
    }

    /// Notes that nothing is held any more.
    pub(super) fn lose_all(&mut self) -> Self {
        Self {
            serial: self.serial,
            lost: self.lost || self.entries > 0,
            ..Self::default()
        }
    }

    /// Pins what has no pin yet.
    fn first(&mut self, weight: usize, most_bytes: usize) -> Option<Pinned> {
        if self.bytes + weight > most_bytes / PINNED_SHARE {
            return None;
        }
        self.serial += 1;
        self.entries += 1;
        self.bytes += weight;
        Some(Pinned {
            serial: self.serial,
            times: 1,
            weight,
        })
    }

    /// Takes one pin off; `true` when it was the last.
    fn off(&mut self, pinned: &mut Option<Pinned>, serial: u64) -> bool {
        let Some(present) = pinned.as_mut().filter(|pinned| pinned.serial == serial) else {
            return false;
        };
        present.times -= 1;
        if present.times > 0 {
            return false;
        }
        self.entries -= 1;
        self.bytes -= present.weight;
        *pinned = None;
        true
    }
}

/// What of a dialog those who are pinned can see.
#[derive(Debug)]
pub(super) struct VisibleState {
    counts: (i64, i64, i64),
    last_message_at: Moment,
    deleted: bool,
    sequence: Vec<(TypeId, i64)>,
}

impl VisibleState {
    fn of(dialog: &Dialog) -> Self {
        Self {
            counts: (dialog.messages, dialog.members, dialog.topics),
            last_message_at: dialog.last_message_at,
            deleted: dialog.deleted,
            sequence: dialog.sequence.clone(),
        }
    }

    /// Whether its members see something else now.
    fn differs_for_members(&self, dialog: &Dialog) -> bool {
        // Types are only ever appended.
        let (before, after) = dialog.sequence.split_at(self.sequence.len());
        self.last_message_at != dialog.last_message_at
            || self.deleted != dialog.deleted
            || self.sequence != before
            || after.iter().any(|(_, count)| *count != 0)
    }

    /// Whether the dialog's own counters are others now.
    fn differs(&self, dialog: &Dialog) -> bool {
        self.counts != (dialog.messages, dialog.members, dialog.topics)
            || self.last_message_at != dialog.last_message_at
            || self.deleted != dialog.deleted
    }
}

impl Entries {
    /// Returns how a dialog looks before it changes; `None` when nobody looks.
    pub(super) fn face(&self, dialog: u32) -> Option<VisibleState> {
        (self.pins.entries > 0).then(|| VisibleState::of(&self.dialogs[dialog as usize]))
    }

    /// Notes for whom a dialog has changed.
    pub(super) fn note_touched(
        &mut self,
        number: u32,
        before: &VisibleState,
        changes: &[Change<'_>],
    ) {
        let dialog = &self.dialogs[number as usize];
        let touched = &mut self.pins.touched;
        if dialog.pinned.is_some() && before.differs(dialog) {
            touched.dialogs.push(number);
        }
        let is_pinned = |user: u32| self.users[user as usize].pinned.is_some();
        if before.differs_for_members(dialog) {
            let sharers = dialog.sharers.iter().map(|sharer| sharer.user);
            let sharers = sharers.filter(|user| is_pinned(*user));
            touched.users.extend(sharers.map(|user| (user, number)));
            return;
        }
        let mut users = Vec::new();
        for change in changes {
            let shares = change.of.shares.iter();
            let of_users = shares.filter_map(|share| self.user_of(dialog.tenant, &share.user));
            users.extend(of_users.filter(|user| is_pinned(*user)));
        }
        let users = users.into_iter().map(|user| (user, number));
        self.pins.touched.users.extend(users);
    }
}

impl Model {
    /// Pins a user who is held.
    ///
    /// # Errors
    /// [`NotPinned`].
    pub fn pin_user(&mut self, tenant: &TenantId, user: &UserId) -> Result<Pin, NotPinned> {
        let entries = &mut self.entries;
        let number = entries.user(tenant, user).ok_or(NotPinned::NotHeld)?;
        let user = &mut entries.users[number as usize];
        let weight = user.bytes() + user.shares.len() * BYTES_BESIDE_A_SHARE;
        match &mut user.pinned {
            Some(pinned) => pinned.times += 1,
            none => {
                *none = entries.pins.first(weight, self.most_bytes);
                none.ok_or(NotPinned::NoRoom)?;
                let place = user.place.take();
                place.into_iter().for_each(|at| entries.lru.remove(at));
            }
        }
        let serial = user.pinned.map_or(0, |pinned| pinned.serial);
        Ok(Pin { number, serial })
    }

    /// Pins a dialog that is held.
    ///
    /// # Errors
    /// [`NotPinned`].
    pub fn pin_dialog(&mut self, tenant: &TenantId, dialog: &DialogId) -> Result<Pin, NotPinned> {
        let entries = &mut self.entries;
        let number = entries.dialog(tenant, dialog).ok_or(NotPinned::NotHeld)?;
        let dialog = &mut entries.dialogs[number as usize];
        let weight = dialog.bytes();
        match &mut dialog.pinned {
            Some(pinned) => pinned.times += 1,
            none => {
                *none = entries.pins.first(weight, self.most_bytes);
                none.ok_or(NotPinned::NoRoom)?;
                let place = dialog.place.take();
                place.into_iter().for_each(|at| entries.lru.remove(at));
            }
        }
        let serial = dialog.pinned.map_or(0, |pinned| pinned.serial);
        Ok(Pin { number, serial })
    }

    /// Takes a pin off a user. One that is void changes nothing.
    pub fn unpin_user(&mut self, pin: Pin) {
        let entries = &mut self.entries;
        let Some(user) = entries.users.get_mut(pin.number as usize) else {
            return;
        };
        if entries.pins.off(&mut user.pinned, pin.serial) {
            user.place = Some(entries.lru.add(Evictable::User(pin.number)));
        }
    }

    /// Takes a pin off a dialog. One that is void changes nothing.
    pub fn unpin_dialog(&mut self, pin: Pin) {
        let entries = &mut self.entries;
        let Some(dialog) = entries.dialogs.get_mut(pin.number as usize) else {
            return;
        };
        if entries.pins.off(&mut dialog.pinned, pin.serial) {
            dialog.asked = true;
            entries.settle_dialog(pin.number);
        }
    }

    /// Tells whether a pin still holds a user.
    pub fn holds_user(&self, pin: Pin) -> bool {
        let user = self.entries.users.get(pin.number as usize);
        let pinned = user.and_then(|user| user.pinned);
        pinned.is_some_and(|pinned| pinned.serial == pin.serial)
    }

    /// Tells whether a pin still holds a dialog.
    pub fn holds_dialog(&self, pin: Pin) -> bool {
        let dialog = self.entries.dialogs.get(pin.number as usize);
        let pinned = dialog.and_then(|dialog| dialog.pinned);
        pinned.is_some_and(|pinned| pinned.serial == pin.serial)
    }

    /// Returns what changed about those who are pinned since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.entries.pins.touched)
    }

    /// Tells whether pins have become void since this was last asked.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.entries.pins.lost)
    }

    /// Returns those who are pinned about whom records tell: all whom they may have
    /// changed.
    pub fn touched_by<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Touched {
        let mut touched = Touched::default();
        for changed in records.flat_map(|record| &record.dialogs) {
            let key = &changed.key;
            let Some(number) = self.entries.dialog(&key.tenant, &key.dialog) else {
                continue;
            };
            touched.dialogs.push(number);
            let sharers = self.entries.dialogs[number as usize].sharers.iter();
            touched
                .users
                .extend(sharers.map(|sharer| (sharer.user, number)));
        }
        touched
    }

    /// Returns the counters of a user who is pinned.
    pub fn pinned_user(&self, pin: Pin) -> UserStats {
        let user = &self.entries.users[pin.number as usize];
        let tenant = self.entries.tenant_id(user.tenant);
        user.totals.stats(tenant, &user.id, &self.entries.types)
    }

    /// Returns the version of a user who is pinned.
    pub fn pinned_user_version(&self, pin: Pin) -> i64 {
        self.entries.users[pin.number as usize].totals.version()
    }

    /// Returns the counters of a user who is pinned, in a dialog in which something was
    /// touched for them.
    pub fn pinned_user_in_dialog(&self, pin: Pin, dialog: u32) -> UserDialogStats {
        let user = &self.entries.users[pin.number as usize];
        let tenant = self.entries.tenant_id(user.tenant);
        let share = self.entries.share(pin.number, dialog);
        self.entries.in_dialog(tenant, pin.number, share, dialog)
    }

    /// Returns the counters of a dialog that is pinned.
    pub fn pinned_dialog(&self, pin: Pin) -> DialogStats {
        let dialog = &self.entries.dialogs[pin.number as usize];
        dialog.stats(self.entries.tenant_id(dialog.tenant))
    }

    /// Returns the version of a dialog that is pinned.
    pub fn pinned_dialog_version(&self, pin: Pin) -> i64 {
        self.entries.dialogs[pin.number as usize].version
    }
}
