//! Joining, leaving and reading up to a time: what moves a member's mark.

use super::changes::Consumed;
use super::state::{Add, DialogKey, Membership, MembershipKey, Need};
use super::{Batch, Blocked, Effect, Step, dialog_key, membership_key};
use crate::event::{DialogId, Event, Micros, Stamp, UserId};

impl Batch {
    pub(super) fn member_added(
        &mut self,
        event: &Event,
        dialog: &DialogId,
        user: &UserId,
        joined_at: Micros,
        made_at: Micros,
    ) -> Step<Effect> {
        let dialog = dialog_key(event, dialog);
        let key = membership_key(&dialog, user);
        let membership = self.membership(&key);
        let stamp = Stamp {
            at: made_at,
            event: event.stamp.event.clone(),
        };
        let undone = membership.removed.as_ref() > Some(&stamp);
        let place = membership
            .adds
            .binary_search_by(|add| add.stamp.cmp(&stamp));
        let (false, Err(place)) = (undone, place) else {
            return Ok(Effect::nothing());
        };
        let mut membership = membership.clone();
        membership.adds.insert(place, Add { stamp, joined_at });
        self.replace(dialog, key, membership)
    }

    pub(super) fn member_removed(
        &mut self,
        event: &Event,
        dialog: &DialogId,
        user: &UserId,
    ) -> Step<Effect> {
        let dialog = dialog_key(event, dialog);
        let key = membership_key(&dialog, user);
        let membership = self.membership(&key);
        if membership.removed.as_ref() >= Some(&event.stamp) {
            return Ok(Effect::nothing());
        }
        let mut membership = membership.clone();
        membership.adds.retain(|add| add.stamp > event.stamp);
        membership.removed = Some(event.stamp.clone());
        self.replace(dialog, key, membership)
    }

    pub(super) fn bulk_read(
        &mut self,
        event: &Event,
        dialog: &DialogId,
        user: &UserId,
        read_until: Micros,
    ) -> Step<Effect> {
        let dialog = dialog_key(event, dialog);
        let key = membership_key(&dialog, user);
        let membership = self.membership(&key);
        if membership.read_until >= Some(read_until) {
            return Ok(Effect::nothing());
        }
        let mut membership = membership.clone();
        membership.read_until = Some(read_until);
        self.replace(dialog, key, membership)
    }

    /// Puts new facts in the place of the old, with all that follows for the
    /// number of members and the member's share.
    fn replace(&mut self, dialog: DialogKey, key: MembershipKey, new: Membership) -> Step<Effect> {
        let old = self.membership(&key);
        let marks = (old.mark(), new.mark());
        let (was_member, is_member) = (old.joined_at().is_some(), new.joined_at().is_some());
        let moved_to = new.mark().filter(|mark| old.mark() != Some(*mark));
        let consumed = match moved_to {
            Some(mark) => Some(self.consumed_after(&dialog, &key, mark)?),
            None => None,
        };
        let counters = self.dialog_mut(&dialog);
        counters.members += i64::from(is_member) - i64::from(was_member);
        counters.high_mark = counters.high_mark.max(moved_to);
        self.state.know_membership(key.clone(), new.clone());
        let share = self.share_mut(key);
        share.facts = Some(new);
        if let Some(consumed) = consumed {
            share.consumed = consumed;
        }
        let mut effect = Effect::on(&dialog);
        effect.trace.marks = Some(marks);
        Ok(effect)
    }

    /// A member's share once their mark is there: all of the sequence, less
    /// what is unread after the mark. Mostly nothing is.
    fn consumed_after(
        &self,
        dialog: &DialogKey,
        key: &MembershipKey,
        mark: super::state::Mark,
    ) -> Step<Consumed> {
        let counters = self.dialog(dialog);
        if counters.last_message_at.is_none_or(|at| mark.covers(at)) {
            return Ok(Consumed::Set(counters.sequence.clone()));
        }
        if self.state.is_touched(dialog) {
            return Err(Blocked::Flush);
        }
        self.require([Need::Unread(key.clone(), mark)])?;
        let unread = &self.state.unread[&(key.clone(), mark)];
        Ok(Consumed::Set(counters.sequence.minus(unread)))
    }
}
