//! What must be known before an event can be derived, and whether it is.

use super::state::{DialogKey, MessageKey, Name, Need, ReceiptKey, TopicKey};
use super::{
    Batch, DeriveResult, LoadMode, Missing, dialog_key, event_key, membership_key, message_key,
    user_key,
};
use crate::event::{Event, Fact, Micros, UserId};

impl Batch {
    /// Returns the needs of an event that can be foreseen, to be loaded for
    /// many events at once. More may turn up when the event is applied.
    pub fn foreseen(&self, event: &Event, mode: LoadMode) -> Vec<Need> {
        if self.state.journal.get(&event_key(event)) == Some(&true) {
            return Vec::new();
        }
        let mut needs = self.needs_of(event);
        if mode == LoadMode::Checked {
            needs.push(Need::Journal(event_key(event)));
            if let Fact::MessageCreated(message) = &event.fact {
                needs.push(Need::Message(message_key(event, &message.message)));
            }
        }
        needs.retain(|need| !self.knows(need));
        if needs.is_empty() {
            needs = self.further_needs(event).unwrap_or_default();
            needs.retain(|need| !self.knows(need));
        }
        needs
    }

    /// Returns what an event out of order will need, by what is known of its
    /// dialog before the events of this batch; `None` when that is nothing.
    fn further_needs(&self, event: &Event) -> Option<Vec<Need>> {
        match &event.fact {
            Fact::MessageCreated(new) => {
                let dialog = dialog_key(event, &new.dialog);
                self.members_past_need(&dialog, new.sent_at, new.system)
                    .map(|need| vec![need])
            }
            Fact::MessageDeleted { message } => {
                let key = message_key(event, message);
                let created = self.state.messages.get(&key)?.created.as_ref()?;
                let dialog = dialog_key(event, &created.dialog);
                let Some(known) = self.state.dialogs.get(&dialog) else {
                    return Some(vec![Need::Dialog(dialog)]);
                };
                let latest = known.now.last_message_at == Some(created.at);
                let latest = latest.then(|| self.need_of_latest(&dialog));
                let past = self.members_past_need(&dialog, created.at, created.system);
                let readers = (!created.system).then(|| Need::Readers(key.clone()));
                Some(past.into_iter().chain(readers).chain(latest).collect())
            }
            Fact::BulkRead { dialog, user, .. }
            | Fact::MemberAdded { dialog, user, .. }
            | Fact::MemberRemoved { dialog, user } => {
                let key = membership_key(&dialog_key(event, dialog), user);
                let new = self.membership_after(event, self.state.membership(&key)?)?;
                let Err(Missing(needs)) = self.consumed_at(&key, new.watermark()?) else {
                    return None;
                };
                Some(needs)
            }
            _ => None,
        }
    }

    /// Returns the need for the members whose watermarks cover a message, if it
    /// is out of order.
    pub(super) fn members_past_need(
        &self,
        dialog: &DialogKey,
        at: Micros,
        system: bool,
    ) -> Option<Need> {
        let high_watermark = self.state.dialogs.get(dialog)?.now.high_watermark?;
        let out_of_order = !system && high_watermark.covers(at);
        out_of_order.then(|| Need::MembersPast(dialog.clone(), at))
    }

    pub(super) fn needs_of(&self, event: &Event) -> Vec<Need> {
        let dialog = |dialog| dialog_key(event, dialog);
        match &event.fact {
            Fact::MessageCreated(m) => {
                let typed = m.sender_type.is_some();
                let user_type = (!typed).then(|| Need::UserType(user_key(event, &m.sender)));
                std::iter::once(Need::Dialog(dialog(&m.dialog)))
                    .chain(user_type)
                    .collect()
            }
            Fact::MessageDeleted { message } => {
                vec![Need::Message(message_key(event, message))]
            }
            Fact::StatusReached {
                message,
                user,
                status,
            } => {
                let message = message_key(event, message);
                let mut needs = vec![Need::Message(message.clone())];
                if status.is_read() {
                    needs.extend(self.read_needs(event, &message, user));
                }
                needs.extend(self.need_of_name(&message, Name::Status(status.clone())));
                needs.push(Need::Receipt(ReceiptKey {
                    message,
                    status: status.clone(),
                    user: user.clone(),
                }));
                needs
            }
            Fact::ReactionChanged { message, .. } => {
                let mut needs = vec![Need::Message(message_key(event, message))];
                for (key, _) in self.reaction_states(event) {
                    let name = Name::Reaction(key.reaction.clone());
                    needs.extend(self.need_of_name(&key.message, name));
                    needs.push(Need::Reaction(key));
                }
                needs
            }
            Fact::BulkRead {
                dialog: d, user, ..
            }
            | Fact::MemberAdded {
                dialog: d, user, ..
            }
            | Fact::MemberRemoved { dialog: d, user } => vec![
                Need::Dialog(dialog(d)),
                Need::Membership(membership_key(&dialog(d), user)),
            ],
            Fact::TopicCreated { dialog: d, topic } => vec![
                Need::Dialog(dialog(d)),
                Need::Topic(TopicKey {
                    dialog: dialog(d),
                    topic: topic.clone(),
                }),
            ],
            Fact::DialogDeleted { dialog: d } => vec![Need::Dialog(dialog(d))],
            Fact::UserTyped { .. } => Vec::new(),
        }
    }

    /// Returns the needs for the dialog and membership of a read: those of the
    /// message where it is known, else those that the producer named, which are
    /// nearly always the same.
    fn read_needs(&self, event: &Event, message: &MessageKey, user: &UserId) -> Vec<Need> {
        let known = self.state.messages.get(message);
        let created = known.and_then(|message| message.created.as_ref());
        let dialog = created.map(|c| &c.dialog).or(event.dialog_hint.as_ref());
        let Some(dialog) = dialog.map(|dialog| dialog_key(event, dialog)) else {
            return Vec::new();
        };
        let membership = membership_key(&dialog, user);
        vec![Need::Dialog(dialog), Need::Membership(membership)]
    }

    fn knows(&self, need: &Need) -> bool {
        let state = &self.state;
        match need {
            Need::Journal(key) => state.journal.contains_key(key),
            Need::Dialog(key) => state.dialogs.contains_key(key),
            Need::Membership(key) => state.membership(key).is_some(),
            Need::Message(key) => state.messages.contains_key(key),
            Need::Receipt(key) => state.receipts.contains_key(key),
            Need::Reaction(key) => state.reactions.contains_key(key),
            Need::Name(key) => self.knows_name(key),
            Need::Topic(key) => state.topics.contains_key(key),
            Need::UserType(key) => state.user_types.contains_key(key),
            Need::MembersPast(key, at) => state
                .members_past
                .get(key)
                .is_some_and(|(from, _)| from <= at),
            Need::Readers(key) => state.readers.contains_key(key),
            Need::Tail(key, watermark) => {
                let tail = state.tails.get(key);
                tail.is_some_and(|tail| tail.reaches(*watermark) || tail.was_asked(*watermark))
            }
            Need::ReadOf(key, watermark) => {
                let known = state.read_of.get(key);
                known.is_some_and(|(from, _)| from <= watermark)
            }
            Need::Unread(key, watermark) => state.unread.contains_key(&(key.clone(), *watermark)),
            Need::Latest(key, most) => {
                let known = state.latest.get(key);
                known.is_some_and(|(asked, found)| asked >= most || found.len() < *asked)
            }
        }
    }

    pub(super) fn require(&self, needs: impl IntoIterator<Item = Need>) -> DeriveResult {
        let missing: Vec<_> = needs.into_iter().filter(|need| !self.knows(need)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Missing(missing))
        }
    }
}
