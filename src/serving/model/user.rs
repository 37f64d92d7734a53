//! A user who is held: all shares, and what they come to.

use crate::event::{Micros, TenantId, UserId};
use crate::store::commit_log::ShareChanged;
use crate::store::read::UserDialogStats;

use super::dialog::{Dialog, Moment};
use super::memory::{grow, heap, room_for, text};
use super::pin_account::Pinned;
use super::ranks::Ranks;
use super::share::{Share, unread};
use super::totals::{Direction, Totals};
use super::types::Types;

/// A user who is held, with all their shares and the totals of these.
#[derive(Debug)]
pub(super) struct User {
    /// The number of the tenant.
    pub(super) tenant: u32,
    pub(super) id: UserId,
    /// The place among what can be let go.
    pub(super) place: Option<u32>,
    /// Whether they may be let go at all.
    pub(super) pinned: Option<Pinned>,
    /// Whether the totals are those of the shares: not while it is put in.
    pub(super) counted: bool,
    /// In the order in which they came; none ever goes.
    pub(super) shares: Vec<Share>,
    /// The shares by dialog id.
    pub(super) order: Vec<u32>,
    /// Of dialogs that the user is a member of.
    pub(super) member: Ranks,
    /// Of dialogs with something unread.
    pub(super) unread: Ranks,
    /// The sums over the shares.
    pub(super) totals: Totals,
    /// What the shares take beside themselves.
    beside: usize,
}

impl User {
    pub(super) fn new(tenant: u32, id: UserId) -> Self {
        Self {
            tenant,
            id,
            place: None,
            pinned: None,
            counted: false,
            shares: Vec::new(),
            order: Vec::new(),
            member: Ranks::default(),
            unread: Ranks::default(),
            totals: Totals::default(),
            beside: 0,
        }
    }

    /// Makes room for shares that are put in in the order of their dialogs' ids.
    pub(super) fn expect(&mut self, shares: usize) {
        self.shares.reserve_exact(shares);
        self.order.reserve_exact(shares);
        self.member = Ranks::none_of(shares);
        self.unread = Ranks::none_of(shares);
    }

    /// Appends the share that comes after all others, for which room was made.
    pub(super) fn append(&mut self, mut share: Share) {
        share.rank = self.order.len() as u32;
        self.beside += share.consumed.bytes();
        self.order.push(self.shares.len() as u32);
        self.shares.push(share);
    }

    /// Inserts a share at `rank`, and moves all after it up.
    pub(super) fn insert(&mut self, rank: usize, mut share: Share) {
        share.rank = rank as u32;
        self.member.open(rank as u32, self.order.len());
        self.unread.open(rank as u32, self.order.len());
        for moved in &self.order[rank..] {
            self.shares[*moved as usize].rank += 1;
        }
        grow(&mut self.order);
        self.order.insert(rank, self.shares.len() as u32);
        grow(&mut self.shares);
        self.shares.push(share);
    }

    /// Applies what a commit changed about a share.
    pub(super) fn change(
        &mut self,
        share: u32,
        changed: &ShareChanged,
        at: Micros,
        dialog: &mut Dialog,
        types: &mut Types,
    ) {
        let share = &mut self.shares[share as usize];
        let before = share.consumed.bytes();
        share.change(changed, at, dialog, types);
        self.beside = self.beside + share.consumed.bytes() - before;
    }

    /// Counts a share into the totals, or out of them.
    pub(super) fn count(&mut self, share: u32, dialog: &Dialog, way: Direction) {
        let share = &self.shares[share as usize];
        let seen = self.totals.count(share, dialog, way);
        if way == Direction::In {
            self.member.set(share.rank, seen.member);
            self.unread.set(share.rank, seen.unread);
        }
    }

    /// Returns the bytes that it takes, without its slots in tables.
    pub(super) fn bytes(&self) -> usize {
        heap(size_of::<Self>())
            + text(self.id.as_str())
            + room_for::<Share>(self.shares.capacity())
            + room_for::<u32>(self.order.capacity())
            + self.member.bytes()
            + self.unread.bytes()
            + self.totals.bytes()
            + self.beside
    }
}

/// Returns what a dialog says of a user, who may have no share of it.
pub(super) fn user_in_dialog(
    tenant: &TenantId,
    user: &UserId,
    share: Option<&Share>,
    dialog: &Dialog,
    types: &Types,
) -> UserDialogStats {
    let member = share.is_some_and(|share| share.member) && !dialog.deleted;
    let share_updated_at = share.map_or(Moment::NONE, |share| share.updated_at);
    let mut stats = UserDialogStats {
        tenant: tenant.clone(),
        user: user.clone(),
        dialog: dialog.id.clone(),
        member,
        unread: 0,
        unread_by_sender_type: Default::default(),
        last_message_at: dialog.last_message_at.get().filter(|_| member),
        joined_at: share
            .and_then(|share| share.joined_at.get())
            .filter(|_| member),
        read_until: share.and_then(|share| share.read_until.get()),
        version: dialog
            .version
            .saturating_add(share.map_or(0, |share| share.version)),
        updated_at: dialog.updated_at.max(share_updated_at).get(),
    };
    for (sender_type, count) in share.into_iter().flat_map(|share| unread(share, dialog)) {
        if count < 0 {
            tracing::error!(
                %tenant, %user, dialog = %dialog.id, count,
                "a negative count of unread messages: shown as 0"
            );
        }
        if count > 0 {
            let name = types.name(sender_type).to_owned();
            stats.unread += count;
            stats.unread_by_sender_type.insert(name, count);
        }
    }
    stats
}
