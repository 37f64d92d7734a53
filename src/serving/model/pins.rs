//! Who is watched: they are not let go, and what changes about them is noted.

use crate::event::{DialogId, TenantId, UserId};
use crate::store::commit_log::Record;
use crate::store::read::{DialogStats, UserDialogStats, UserStats};

use super::Model;
use super::lru::Evictable;
use super::pin_account::{NotPinned, Pin, Touched};

/// What a share of a dialog takes beside the share itself, at most: the dialog,
/// which mostly others have a share of as well.
const BYTES_BESIDE_A_SHARE: usize = 300;

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
        let pins = &mut entries.pins;
        let pin = pins.pin(number, &mut user.pinned, weight, self.most_bytes)?;
        // What is pinned is not among what can be let go.
        if let Some(place) = user.place.take() {
            entries.lru.remove(place);
        }
        Ok(pin)
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
        let pins = &mut entries.pins;
        let pin = pins.pin(number, &mut dialog.pinned, weight, self.most_bytes)?;
        // What is pinned is not among what can be let go.
        if let Some(place) = dialog.place.take() {
            entries.lru.remove(place);
        }
        Ok(pin)
    }

    /// Takes a pin off a user. One that is void changes nothing.
    pub fn unpin_user(&mut self, pin: Pin) {
        let entries = &mut self.entries;
        let Some(user) = entries.users.get_mut(pin.number as usize) else {
            return;
        };
        if entries.pins.unpin(&mut user.pinned, pin) {
            user.place = Some(entries.lru.add(Evictable::User(pin.number)));
        }
    }

    /// Takes a pin off a dialog. One that is void changes nothing.
    pub fn unpin_dialog(&mut self, pin: Pin) {
        let entries = &mut self.entries;
        let Some(dialog) = entries.dialogs.get_mut(pin.number as usize) else {
            return;
        };
        if entries.pins.unpin(&mut dialog.pinned, pin) {
            dialog.asked = true;
            entries.settle_dialog(pin.number);
        }
    }

    /// Tells whether a pin still holds a user.
    pub fn holds_user(&self, pin: Pin) -> bool {
        let user = self.entries.users.get(pin.number as usize);
        pin.is_on(user.and_then(|user| user.pinned))
    }

    /// Tells whether a pin still holds a dialog.
    pub fn holds_dialog(&self, pin: Pin) -> bool {
        let dialog = self.entries.dialogs.get(pin.number as usize);
        pin.is_on(dialog.and_then(|dialog| dialog.pinned))
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
