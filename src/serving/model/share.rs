//! A user's share of a dialog that is held.

use crate::event::Micros;
use crate::store::commit_log::{ConsumedChanged, ShareChanged};
use crate::store::read::MembershipRow;

use super::consumed::Consumed;
use super::dialog::{Dialog, Moment};
use super::types::{TypeId, Types};

/// A user's share of a dialog.
#[derive(Debug)]
pub(super) struct Share {
    /// The number of the dialog.
    pub(super) dialog: u32,
    /// Its place among the user's shares by dialog id.
    pub(super) rank: u32,
    /// Its place among the dialog's sharers.
    pub(super) place: u32,
    pub(super) member: bool,
    pub(super) version: i64,
    /// The messages that the user has sent.
    pub(super) sent: i64,
    /// The messages of the dialog that are not unread for the user, by sender's type.
    pub(super) consumed: Consumed,
    pub(super) joined_at: Moment,
    pub(super) read_until: Moment,
    pub(super) updated_at: Moment,
}

impl Share {
    /// Makes a share of which nothing was ever heard.
    pub(super) fn new(dialog: u32) -> Self {
        Self {
            dialog,
            rank: 0,
            place: 0,
            member: false,
            version: 0,
            sent: 0,
            consumed: Consumed::default(),
            joined_at: Moment::NONE,
            read_until: Moment::NONE,
            updated_at: Moment::NONE,
        }
    }

    /// Takes over what was read.
    pub(super) fn read(&mut self, row: &MembershipRow, dialog: &mut Dialog, types: &mut Types) {
        self.member = row.member;
        self.version = row.version;
        self.sent = row.sent;
        self.joined_at = row.joined_at.into();
        self.read_until = row.read_until.into();
        self.updated_at = row.updated_at.into();
        for (name, count) in &row.consumed {
            self.consumed.set(dialog.place_of(name, types), *count);
        }
    }

    /// Applies what a commit changed about it.
    pub(super) fn change(
        &mut self,
        changed: &ShareChanged,
        at: Micros,
        dialog: &mut Dialog,
        types: &mut Types,
    ) {
        self.version += changed.version;
        self.sent += changed.sent;
        self.updated_at = Some(at).into();
        let (by_type, set) = match &changed.consumed {
            ConsumedChanged::By(by_type) => (by_type, false),
            ConsumedChanged::To(by_type) => (by_type, true),
        };
        if set {
            self.consumed.clear();
        }
        for (name, count) in by_type.iter() {
            let place = dialog.place_of(name.as_str(), types);
            let before = self.consumed.get(place);
            self.consumed.set(place, before.saturating_add(count));
        }
        if let Some(facts) = changed.facts {
            self.member = facts.joined_at.is_some();
            self.joined_at = facts.joined_at.into();
            self.read_until = facts.read_until.into();
        }
    }
}

/// unread = sequence - consumed, for each type: below zero where something is
/// wrong. Nothing for someone who is no member, or of a dialog that was deleted.
pub(super) fn unread<'d>(
    share: &'d Share,
    dialog: &'d Dialog,
) -> impl Iterator<Item = (TypeId, i64)> + 'd {
    let applies = share.member && !dialog.deleted;
    let sequence = dialog.sequence.iter().enumerate().filter(move |_| applies);
    sequence.map(|(place, (sender_type, count))| {
        let unread = count.saturating_sub(share.consumed.get(place));
        (*sender_type, unread)
    })
}
