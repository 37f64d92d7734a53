//! Joining, leaving and reading up to a time: what moves a member's watermark.

use super::changes::Consumed;
use super::state::{Add, DialogKey, Membership, MembershipKey, Watermark};
use super::{Batch, DeriveResult, Effect, membership_key};
use crate::event::{Event, Fact, Micros, Stamp, UserId};

impl Batch {
    /// Takes an event about a membership.
    pub(super) fn membership_changed(
        &mut self,
        event: &Event,
        dialog: &DialogKey,
        user: &UserId,
    ) -> DeriveResult<Effect> {
        let key = membership_key(dialog, user);
        match self.membership_after(event, self.membership(&key)) {
            Some(new) => self.replace(key, new),
            None => Ok(Effect::nothing()),
        }
    }

    /// The membership with what the event says of it; `None` when that is
    /// nothing new, or has been overtaken.
    pub(super) fn membership_after(&self, event: &Event, known: &Membership) -> Option<Membership> {
        match &event.fact {
            Fact::MemberAdded {
                joined_at, made_at, ..
            } => added(event, known, *joined_at, *made_at),
            Fact::MemberRemoved { .. } => removed(event, known),
            Fact::BulkRead { read_until, .. } => read(known, *read_until),
            _ => None,
        }
    }

    /// Puts new facts in the place of the old, with all that follows for the
    /// number of members and the member's share.
    fn replace(&mut self, key: MembershipKey, new: Membership) -> DeriveResult<Effect> {
        let old = self.membership(&key);
        let watermarks = (old.watermark(), new.watermark());
        let (was_member, is_member) = (old.joined_at().is_some(), new.joined_at().is_some());
        let moved_to = new
            .watermark()
            .filter(|watermark| old.watermark() != Some(*watermark));
        let consumed = match moved_to {
            Some(watermark) => Some(self.consumed_at(&key, watermark)?),
            None => None,
        };
        let dialog = key.dialog.clone();
        let counters = self.dialog_mut(&dialog);
        counters.members += i64::from(is_member) - i64::from(was_member);
        counters.high_watermark = counters.high_watermark.max(moved_to);
        self.state.know_membership(key.clone(), new.clone());
        let share = self.share_mut(key);
        share.facts = Some(new);
        if let Some(consumed) = consumed {
            share.consumed = consumed;
        }
        let mut effect = Effect::on(&dialog);
        effect.trace.watermarks = Some(watermarks);
        Ok(effect)
    }

    /// A member's share once their watermark is there: all of the sequence, less
    /// what is unread after the watermark. Mostly nothing is.
    pub(super) fn consumed_at(
        &self,
        key: &MembershipKey,
        watermark: Watermark,
    ) -> DeriveResult<Consumed> {
        let counters = self.dialog(&key.dialog);
        if counters
            .last_message_at
            .is_none_or(|at| watermark.covers(at))
        {
            return Ok(Consumed::Set(counters.sequence.clone()));
        }
        let unread = self.unread_after(key, watermark)?;
        Ok(Consumed::Set(counters.sequence.minus(&unread)))
    }
}

fn added(
    event: &Event,
    known: &Membership,
    joined_at: Micros,
    made_at: Micros,
) -> Option<Membership> {
    let stamp = Stamp {
        at: made_at,
        event: event.stamp.event.clone(),
    };
    let undone = known.removed.as_ref() > Some(&stamp);
    let place = known.adds.binary_search_by(|add| add.stamp.cmp(&stamp));
    let (false, Err(place)) = (undone, place) else {
        return None;
    };
    let mut membership = known.clone();
    membership.adds.insert(place, Add { stamp, joined_at });
    Some(membership)
}

fn removed(event: &Event, known: &Membership) -> Option<Membership> {
    if known.removed.as_ref() >= Some(&event.stamp) {
        return None;
    }
    let mut membership = known.clone();
    membership.adds.retain(|add| add.stamp > event.stamp);
    membership.removed = Some(event.stamp.clone());
    Some(membership)
}

fn read(known: &Membership, read_until: Micros) -> Option<Membership> {
    if known.read_until >= Some(read_until) {
        return None;
    }
    let mut membership = known.clone();
    membership.read_until = Some(read_until);
    Some(membership)
}
