//! All that is held: users with their shares, and dialogs. Every dialog of a
//! user who is held is held as well, and knows that user.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use slab::Slab;

use crate::event::{DialogId, TenantId, UserId};

use super::dialog::{Dialog, Sharer};
use super::lru::{Evictable, LruList};
use super::memory::{grow, room_for, table_slot, text};
use super::pin_account::Pins;
use super::share::Share;
use super::table::Table;
use super::totals::Direction;
use super::types::Types;
use super::user::User;

/// Sharers of a dialog that are gone through to find one; past that it is looked
/// up among the user's shares.
const MAX_SCANNED_SHARERS: usize = 8;

/// Users and dialogs by numbers, which tables by name have in the place of the
/// names, so that each name is kept once.
#[derive(Debug, Default)]
pub(super) struct Entries {
    tenant_names: HashMap<TenantId, u32>,
    tenants: Slab<Tenant>,
    pub(super) users: Slab<Box<User>>,
    pub(super) dialogs: Slab<Box<Dialog>>,
    pub(super) lru: LruList,
    pub(super) types: Types,
    pub(super) pins: Pins,
    hasher: RandomState,
    /// Of tenants, users and dialogs.
    bytes: usize,
}

/// The users and dialogs of a tenant, by name.
#[derive(Debug)]
struct Tenant {
    id: TenantId,
    users: Table,
    dialogs: Table,
}

impl Tenant {
    fn bytes(&self) -> usize {
        let slots = table_slot::<(TenantId, u32)>() + 2 * size_of::<Tenant>();
        let tables = self.users.bytes() + self.dialogs.bytes();
        slots + text(self.id.as_str()) + tables
    }
}

impl Entries {
    /// Tells whether nobody is held.
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Returns the bytes that all entries take.
    pub(super) fn bytes(&self) -> usize {
        // A slot has a number beside what it holds, for when it is free.
        let slots = room_for::<[usize; 2]>(self.users.capacity())
            + room_for::<[usize; 2]>(self.dialogs.capacity());
        self.bytes + slots + self.lru.bytes() + self.types.bytes()
    }

    /// Forgets all users and dialogs.
    pub(super) fn clear(&mut self) {
        *self = Self {
            pins: self.pins.lose_all(),
            ..Self::default()
        };
    }

    /// Returns the id of a tenant.
    pub(super) fn tenant_id(&self, number: u32) -> &TenantId {
        &self.tenants[number as usize].id
    }

    /// Returns the number of a tenant of whom anybody, or a dialog, is held.
    pub(super) fn tenant(&self, tenant: &TenantId) -> Option<u32> {
        self.tenant_names.get(tenant).copied()
    }

    /// Returns the number of a user who is held.
    pub(super) fn user(&self, tenant: &TenantId, user: &UserId) -> Option<u32> {
        self.user_of(self.tenant(tenant)?, user)
    }

    /// Returns the number of a user of a tenant.
    pub(super) fn user_of(&self, tenant: u32, user: &UserId) -> Option<u32> {
        let users = &self.tenants[tenant as usize].users;
        let is_user = |number: u32| self.users[number as usize].id == *user;
        users.find(self.hasher.hash_one(user), is_user)
    }

    /// Returns the number of a dialog that is held.
    pub(super) fn dialog(&self, tenant: &TenantId, dialog: &DialogId) -> Option<u32> {
        self.dialog_of(self.tenant(tenant)?, dialog)
    }

    /// Returns the number of a dialog of a tenant.
    pub(super) fn dialog_of(&self, tenant: u32, dialog: &DialogId) -> Option<u32> {
        let dialogs = &self.tenants[tenant as usize].dialogs;
        let is_dialog = |number: u32| self.dialogs[number as usize].id == *dialog;
        dialogs.find(self.hasher.hash_one(dialog), is_dialog)
    }

    /// Returns a user's share of a dialog, both held.
    pub(super) fn share(&self, user: u32, dialog: u32) -> Option<u32> {
        let Dialog { id, sharers, .. } = &*self.dialogs[dialog as usize];
        if sharers.len() <= MAX_SCANNED_SHARERS {
            let mut sharers = sharers.iter();
            let found = sharers.find(|sharer| sharer.user == user);
            return found.map(|sharer| sharer.share);
        }
        let user = &self.users[user as usize];
        let of = |share: &u32| user.shares[*share as usize].dialog;
        let rank = user
            .order
            .partition_point(|share| self.dialogs[of(share) as usize].id < *id);
        let share = user.order.get(rank);
        share.copied().filter(|share| of(share) == dialog)
    }

    /// Returns the rank of the first of a user's shares whose dialog comes after one.
    pub(super) fn rank_after(&self, user: &User, dialog: &DialogId) -> usize {
        user.order.partition_point(|share| {
            let other = user.shares[*share as usize].dialog;
            self.dialogs[other as usize].id <= *dialog
        })
    }

    /// Changes something about a tenant, and what it takes.
    fn change_tenant(&mut self, number: u32, change: impl FnOnce(&mut Tenant)) {
        let tenant = &mut self.tenants[number as usize];
        let before = tenant.bytes();
        change(tenant);
        self.bytes = self.bytes + tenant.bytes() - before;
        if tenant.users.is_empty() && tenant.dialogs.is_empty() {
            self.bytes -= tenant.bytes();
            let tenant = self.tenants.remove(number as usize);
            self.tenant_names.remove(&tenant.id);
        }
    }

    fn tenant_to_fill(&mut self, id: &TenantId) -> u32 {
        if let Some(number) = self.tenant_names.get(id) {
            return *number;
        }
        let tenant = Tenant {
            id: id.clone(),
            users: Table::default(),
            dialogs: Table::default(),
        };
        self.bytes += tenant.bytes();
        let number = self.tenants.insert(tenant) as u32;
        self.tenant_names.insert(id.clone(), number);
        number
    }

    /// Puts in a user without shares, to be counted and to be given a place
    /// among what can be let go.
    pub(super) fn add_user(&mut self, tenant: &TenantId, id: UserId) -> u32 {
        let in_tenant = self.tenant_to_fill(tenant);
        let hash = self.hasher.hash_one(&id);
        let user = Box::new(User::new(in_tenant, id));
        self.bytes += user.bytes();
        let number = self.users.insert(user) as u32;
        self.change_tenant(in_tenant, |tenant| tenant.users.insert(hash, number));
        number
    }

    /// Puts in a dialog of which nothing is known, nor who has a share.
    pub(super) fn add_dialog(&mut self, tenant: &TenantId, id: DialogId) -> u32 {
        let in_tenant = self.tenant_to_fill(tenant);
        let hash = self.hasher.hash_one(&id);
        let dialog = Box::new(Dialog::new(in_tenant, id));
        self.bytes += dialog.bytes();
        let number = self.dialogs.insert(dialog) as u32;
        self.change_tenant(in_tenant, |tenant| tenant.dialogs.insert(hash, number));
        number
    }

    /// Changes something about a dialog, and what it takes.
    pub(super) fn change_dialog(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Dialog, &mut Types),
    ) {
        let dialog = &mut self.dialogs[number as usize];
        let before = dialog.bytes();
        change(dialog, &mut self.types);
        self.bytes = self.bytes + dialog.bytes() - before;
    }

    /// Changes something about a user, and of a dialog, and what they take.
    pub(super) fn change_both<T>(
        &mut self,
        user: u32,
        dialog: u32,
        change: impl FnOnce(&mut User, &mut Dialog, &mut Types) -> T,
    ) -> T {
        let user = &mut self.users[user as usize];
        let dialog = &mut self.dialogs[dialog as usize];
        let before = user.bytes() + dialog.bytes();
        let done = change(user, dialog, &mut self.types);
        self.bytes = self.bytes + user.bytes() + dialog.bytes() - before;
        done
    }

    /// Makes room for shares that will be appended.
    pub(super) fn make_room(&mut self, user: u32, shares: usize) {
        let user = &mut self.users[user as usize];
        let before = user.bytes();
        user.expect(shares);
        self.bytes = self.bytes + user.bytes() - before;
    }

    /// Gives the user a share from now on, of which nothing is known; to be counted.
    pub(super) fn add_share(&mut self, user: u32, dialog: u32) -> u32 {
        let id = &self.dialogs[dialog as usize].id;
        let rank = self.rank_after(&self.users[user as usize], id);
        let share = Share::new(dialog);
        self.join(user, dialog, |user| user.insert(rank, share))
    }

    /// Puts in a share by `put_in`, and the user among the dialog's sharers.
    pub(super) fn join(&mut self, user: u32, dialog: u32, put_in: impl FnOnce(&mut User)) -> u32 {
        if let Some(place) = self.dialogs[dialog as usize].place.take() {
            self.lru.remove(place);
            self.dialogs[dialog as usize].asked = true;
        }
        self.change_both(user, dialog, |shares, dialog, _| {
            let share = shares.shares.len();
            put_in(shares);
            shares.shares[share].place = dialog.sharers.len() as u32;
            grow(&mut dialog.sharers);
            let share = share as u32;
            dialog.sharers.push(Sharer { user, share });
            share
        })
    }

    /// Counts a dialog into the totals of those who have a share, or out of them.
    pub(super) fn count(&mut self, dialog: u32, way: Direction) {
        let dialog = &self.dialogs[dialog as usize];
        for sharer in &dialog.sharers {
            let user = &mut self.users[sharer.user as usize];
            let before = user.totals.bytes();
            user.count(sharer.share, dialog, way);
            self.bytes = self.bytes + user.totals.bytes() - before;
        }
    }

    /// Counts all shares of a user, for the first time.
    pub(super) fn count_user(&mut self, number: u32) {
        let user = &mut self.users[number as usize];
        let before = user.totals.bytes();
        for share in 0..user.shares.len() {
            let dialog = user.shares[share].dialog as usize;
            user.count(share as u32, &self.dialogs[dialog], Direction::In);
        }
        self.bytes = self.bytes + user.totals.bytes() - before;
        user.counted = true;
        user.place = Some(self.lru.add(Evictable::User(number)));
    }

    /// Marks a user as asked for.
    pub(super) fn touch_user(&mut self, number: u32) {
        if let Some(place) = self.users[number as usize].place {
            self.lru.touch(place);
        }
    }

    /// Marks a dialog as asked for by itself.
    pub(super) fn touch_dialog(&mut self, number: u32) {
        let dialog = &mut self.dialogs[number as usize];
        match dialog.place {
            Some(place) => self.lru.touch(place),
            None => dialog.asked = true,
        }
    }

    /// Returns the bytes that a user takes with all dialogs, whoever else has a share of them.
    pub(super) fn weight(&self, number: u32) -> usize {
        let user = &self.users[number as usize];
        let dialogs = user.shares.iter();
        let dialogs = dialogs.map(|share| self.dialogs[share.dialog as usize].bytes());
        user.bytes() + dialogs.sum::<usize>()
    }

    /// Lets go of what nobody asked for longest; `false` when there is nothing.
    pub(super) fn evict(&mut self) -> bool {
        match self.lru.oldest() {
            Some(Evictable::User(number)) => self.remove_user(number),
            Some(Evictable::Dialog(number)) => self.remove_dialog(number),
            None => return false,
        }
        true
    }

    /// Forgets a user, and dialogs that are held for nothing else.
    pub(super) fn remove_user(&mut self, number: u32) {
        let user = self.users.remove(number as usize);
        self.bytes -= user.bytes();
        self.pins.lose(user.pinned);
        if let Some(place) = user.place {
            self.lru.remove(place);
        }
        for share in &user.shares {
            self.leave(share);
        }
        let hash = self.hasher.hash_one(&user.id);
        self.change_tenant(user.tenant, |tenant| tenant.users.remove(hash, number));
    }

    /// Takes a share out of its dialog.
    fn leave(&mut self, share: &Share) {
        let dialog = &mut self.dialogs[share.dialog as usize];
        dialog.sharers.swap_remove(share.place as usize);
        if let Some(moved) = dialog.sharers.get(share.place as usize) {
            let moved_user = &mut self.users[moved.user as usize];
            moved_user.shares[moved.share as usize].place = share.place;
        }
        self.settle_dialog(share.dialog);
    }

    /// Decides whether a dialog stays: one of which nobody who is held has a share does
    /// only if it is pinned, or was asked for, until others were asked for later.
    pub(super) fn settle_dialog(&mut self, number: u32) {
        let dialog = &mut self.dialogs[number as usize];
        if !dialog.sharers.is_empty() || dialog.place.is_some() || dialog.pinned.is_some() {
            return;
        }
        match std::mem::take(&mut dialog.asked) {
            true => dialog.place = Some(self.lru.add(Evictable::Dialog(number))),
            false => self.remove_dialog(number),
        }
    }

    fn remove_dialog(&mut self, number: u32) {
        let dialog = self.dialogs.remove(number as usize);
        self.bytes -= dialog.bytes();
        if let Some(place) = dialog.place {
            self.lru.remove(place);
        }
        let hash = self.hasher.hash_one(&dialog.id);
        self.change_tenant(dialog.tenant, |tenant| tenant.dialogs.remove(hash, number));
    }

    /// Forgets all of a tenant.
    pub(super) fn forget_tenant(&mut self, tenant: &TenantId) {
        let Some(number) = self.tenant_names.remove(tenant) else {
            return;
        };
        let tenant = self.tenants.remove(number as usize);
        self.bytes -= tenant.bytes();
        for number in tenant.users.into_numbers() {
            let user = self.users.remove(number as usize);
            self.bytes -= user.bytes();
            self.pins.lose(user.pinned);
            user.place
                .into_iter()
                .for_each(|place| self.lru.remove(place));
        }
        for number in tenant.dialogs.into_numbers() {
            let dialog = self.dialogs.remove(number as usize);
            self.bytes -= dialog.bytes();
            self.pins.lose(dialog.pinned);
            dialog
                .place
                .into_iter()
                .for_each(|place| self.lru.remove(place));
        }
    }

    /// What is kept in a sum, summed up.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> (usize, usize) {
        let users: usize = self.users.iter().map(|(_, user)| user.bytes()).sum();
        let dialogs: usize = self.dialogs.iter().map(|(_, dialog)| dialog.bytes()).sum();
        let tenants: usize = self.tenants.iter().map(|(_, tenant)| tenant.bytes()).sum();
        (self.bytes, users + dialogs + tenants)
    }
}
