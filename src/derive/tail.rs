//! The newest part of a dialog's stored messages, and what of it is unread.

use std::collections::{HashMap, HashSet};

use super::by_type::ByType;
use super::watermark::Watermark;
use crate::event::{MessageId, Micros, SenderType, UserId};

/// A stored message that can be unread, as a dialog's tail needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailMessage {
    /// The message's id.
    pub id: MessageId,
    /// When the message was sent.
    pub at: Micros,
    /// The user who sent the message, for whom it is never unread.
    pub sender: UserId,
    /// The sender's type, under which the message is counted.
    pub sender_type: SenderType,
    /// How many users have read it one by one.
    pub reads: i64,
}

/// All stored countable messages of a dialog after a watermark, prepared so that
/// counting them for one more member costs no walk through all of them.
#[derive(Debug)]
pub struct Tail {
    /// The watermark after which the messages were asked for. Asking for one that is not
    /// earlier again would load no more.
    requested_after: Watermark,
    /// The watermark after which every message is here: the requested one, or a later one
    /// where the tail was too long to be loaded whole.
    complete_after: Watermark,
    /// The messages' times, in ascending order.
    times: Vec<Micros>,
    /// Of each type, the places of its messages, which are their indices in `times`, in
    /// ascending order. Not a count for each type and place: a store from before types were
    /// a short list may have thousands.
    by_type: Vec<(SenderType, Vec<u32>)>,
    /// Of each message, the index of its type in `by_type`.
    types: Vec<u32>,
    /// Of each sender, the places of their messages, in ascending order.
    by_sender: HashMap<UserId, Vec<u32>>,
    /// Messages that somebody has read one by one, and how many did, by place.
    read: Vec<(u32, MessageId, i64)>,
    /// The places of the messages in `read`, by their ids.
    read_places: HashMap<MessageId, u32>,
}

impl Tail {
    /// Makes a tail of all messages after `complete_after`, which is the watermark that was
    /// requested, or a later one where the tail is too long to be loaded whole.
    pub fn new(
        requested_after: Watermark,
        complete_after: Watermark,
        mut messages: Vec<TailMessage>,
    ) -> Self {
        messages.sort_by_key(|message| message.at);
        let mut tail = Self {
            requested_after,
            complete_after: complete_after.max(requested_after),
            times: messages.iter().map(|message| message.at).collect(),
            by_type: Vec::new(),
            types: Vec::with_capacity(messages.len()),
            by_sender: HashMap::new(),
            read: Vec::new(),
            read_places: HashMap::new(),
        };
        let mut kinds = HashMap::new();
        for (place, message) in (0..).zip(messages) {
            tail.add(place, message, &mut kinds);
        }
        tail
    }

    fn add(&mut self, place: u32, message: TailMessage, kinds: &mut HashMap<SenderType, u32>) {
        let by_type = &mut self.by_type;
        let kind = *kinds
            .entry(message.sender_type)
            .or_insert_with_key(|sender_type| {
                by_type.push((sender_type.clone(), Vec::new()));
                // Fewer than messages, whose places are of this kind.
                (by_type.len() - 1) as u32
            });
        self.by_type[kind as usize].1.push(place);
        self.types.push(kind);
        self.by_sender
            .entry(message.sender)
            .or_default()
            .push(place);
        if message.reads > 0 {
            self.read_places.insert(message.id.clone(), place);
            self.read.push((place, message.id, message.reads));
        }
    }

    /// Returns whether the tail has every message after the watermark.
    pub(super) fn reaches(&self, watermark: Watermark) -> bool {
        self.complete_after <= watermark
    }

    /// Returns whether asking for the messages after the watermark again would bring no more.
    pub(super) fn was_asked(&self, watermark: Watermark) -> bool {
        self.requested_after <= watermark
    }

    /// Returns the messages after the watermark that somebody has read one by one, and how
    /// many users did.
    pub fn read_after(&self, watermark: Watermark) -> impl Iterator<Item = (&MessageId, i64)> {
        let first = self.place_after(watermark);
        let begin = self.read.partition_point(|(place, ..)| *place < first);
        self.read[begin..].iter().map(|(_, id, reads)| (id, *reads))
    }

    /// Returns how many messages after the watermark are unread for a user who has read
    /// these one by one.
    pub(super) fn unread(
        &self,
        user: &UserId,
        watermark: Watermark,
        read: &HashSet<MessageId>,
    ) -> ByType {
        let first = self.place_after(watermark);
        let mut unread: Vec<i64> = self
            .by_type
            .iter()
            .map(|(_, places)| from(places, first).len() as i64)
            .collect();
        let mut known = |place: u32| unread[self.types[place as usize] as usize] -= 1;
        let own = self.by_sender.get(user).map_or(&[][..], Vec::as_slice);
        from(own, first).iter().for_each(|place| known(*place));
        let read = read
            .iter()
            .filter_map(|id| self.read_places.get(id))
            .copied();
        read.filter(|place| *place >= first && own.binary_search(place).is_err())
            .for_each(&mut known);
        let names = self.by_type.iter().map(|(name, _)| name.clone());
        names.zip(unread).collect()
    }

    fn place_after(&self, watermark: Watermark) -> u32 {
        let place = self.times.partition_point(|at| watermark.covers(*at));
        u32::try_from(place).unwrap_or(u32::MAX)
    }
}

/// Those of ascending places that do not come before one.
fn from(places: &[u32], first: u32) -> &[u32] {
    &places[places.partition_point(|place| *place < first)..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    proptest! {
        /// What the tail counts is what a walk through its messages counts.
        #[test]
        fn a_tail_counts_as_a_walk_does(
            messages in prop::collection::vec((0_i64..40, 0_usize..3, 0_usize..3, any::<bool>()), 0..60),
            from in -1_i64..20,
            later in 0_i64..20,
        ) {
            let (people, types) = (["ann", "bob", "cid"], ["user", "bot", "other"]);
            let watermark = Watermark(from + later);
            let messages: Vec<_> = messages
                .into_iter()
                .filter(|(at, ..)| *at > from)
                .enumerate()
                .map(|(index, (at, sender, sender_type, read))| {
                    let message = TailMessage {
                        id: MessageId::new(&format!("m{index}")).unwrap(),
                        at: Micros::new(at).unwrap(),
                        sender: user(people[sender]),
                        sender_type: SenderType::new(types[sender_type]).unwrap(),
                        reads: i64::from(read),
                    };
                    (message, read)
                })
                .collect();
            let bob = user("bob");
            let read = messages.iter().filter(|(_, read)| *read);
            let read: HashSet<_> = read.map(|(message, _)| message.id.clone()).collect();
            let expected = messages.iter().filter(|(message, read)| {
                !watermark.covers(message.at) && message.sender != bob && !read
            });
            let expected: ByType = expected.map(|(m, _)| (m.sender_type.clone(), 1)).collect();
            let after = messages.iter().filter(|(m, read)| *read && !watermark.covers(m.at));
            let after: HashSet<_> = after.map(|(m, _)| m.id.clone()).collect();
            let messages = messages.iter().map(|(message, _)| message.clone()).collect();
            let tail = Tail::new(Watermark(from), Watermark(from), messages);
            prop_assert_eq!(tail.unread(&bob, watermark, &read), expected);
            let told: HashSet<_> = tail.read_after(watermark).map(|(id, _)| id.clone()).collect();
            prop_assert_eq!(told, after);
        }
    }
}
