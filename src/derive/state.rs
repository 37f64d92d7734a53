//! What derive knows: the facts and counters as loaded from the store, with
//! the effects of the events of this batch on top.

use std::collections::{HashMap, HashSet};

pub use super::by_type::ByType;
pub use super::keys::{
    DialogKey, EventKey, MembershipKey, MessageKey, Name, NameKey, ReactionKey, ReceiptKey,
    TopicKey, UserKey,
};
use super::message_names::MessageNames;
use super::tail::Tail;
pub use super::watermark::Watermark;
use crate::event::{DialogId, MessageId, Micros, SenderType, Stamp, UserId};

/// A dialog's counters and what they are kept by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialog {
    /// 0 for a dialog that is not stored yet; +1 for every event that changed
    /// anything in it.
    pub version: i64,
    /// The messages that were created and not deleted.
    pub messages: i64,
    /// The users who are members now.
    pub members: i64,
    /// The different topics that were created.
    pub topics: i64,
    /// The messages that can be unread, by their senders' types: not deleted,
    /// and no system messages.
    pub sequence: ByType,
    /// Time of the latest message counted in `messages`.
    pub last_message_at: Option<Micros>,
    /// The time that no member's watermark was ever above.
    pub high_watermark: Option<Watermark>,
    /// Whether it was deleted. Everything else goes on being kept, readers
    /// look here first.
    pub deleted: bool,
}

/// One `dialog.member.add` that no remove has undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// The add's place among other adds and removes.
    pub stamp: Stamp,
    /// The join time that it states.
    pub joined_at: Micros,
}

/// What is known of a user in a dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Every add after the latest remove, in order. All are needed: a remove
    /// that arrives late may leave any of them the earliest.
    pub adds: Vec<Add>,
    /// The place in time of the latest remove, if there was one.
    pub removed: Option<Stamp>,
    /// The latest time up to which the user has read in bulk.
    pub read_until: Option<Micros>,
}

impl Membership {
    /// Returns when the user joined; `None` for someone who is not a member.
    pub fn joined_at(&self) -> Option<Micros> {
        self.adds.first().map(|add| add.joined_at)
    }

    /// Returns up to where nothing is unread; `None` for someone who is not a
    /// member.
    pub fn watermark(&self) -> Option<Watermark> {
        Some(Watermark::of(self.joined_at()?, self.read_until))
    }
}

/// How much a create is believed about one fact of its message: of two that
/// disagree, the lower one is right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authority {
    /// The create does not state the fact: it is the event's own time, or a
    /// type that was learnt or presumed.
    pub presumed: bool,
    /// The create's place in time. `None` for what was recorded before creates
    /// were told apart: no create that presumes as well is believed more.
    pub stamp: Option<Stamp>,
}

impl Default for Authority {
    /// That of a create of which no more is known than that it was the first.
    fn default() -> Self {
        Self {
            presumed: true,
            stamp: None,
        }
    }
}

/// The facts of a message that was created, each from the create that is
/// believed most about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The dialog that the message belongs to for good.
    pub dialog: DialogId,
    /// When the message was sent: its place relative to joins and reads.
    pub at: Micros,
    /// The user who sent the message.
    pub sender: UserId,
    /// The sender's type, under which the message is counted.
    pub sender_type: SenderType,
    /// Whether it is a system message, which is counted but never unread.
    pub system: bool,
    /// How much the create that states `at` is believed.
    pub at_by: Authority,
    /// How much the create that states `sender_type` is believed.
    pub type_by: Authority,
    /// How much the create that states `system` is believed.
    pub system_by: Authority,
}

impl Created {
    /// What is to be believed after one more create of the same message by the
    /// same sender in the same dialog. The same in whatever order they come.
    pub fn believing(&self, other: &Created) -> Created {
        let mut believed = self.clone();
        if other.at_by < self.at_by {
            believed.at = other.at;
            believed.at_by = other.at_by.clone();
        }
        if other.type_by < self.type_by {
            believed.sender_type = other.sender_type.clone();
            believed.type_by = other.type_by.clone();
        }
        if other.system_by < self.system_by {
            believed.system = other.system;
            believed.system_by = other.system_by.clone();
        }
        believed
    }

    /// Returns the facts of the message that counters depend on.
    pub fn counting_facts(&self) -> CountingFacts {
        CountingFacts {
            at: self.at,
            sender_type: self.sender_type.clone(),
            system: self.system,
        }
    }
}

/// The facts that decide how a message is counted, besides its dialog and
/// sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountingFacts {
    /// When the message was sent: its place relative to joins and reads.
    pub at: Micros,
    /// The sender's type, under which the message is counted.
    pub sender_type: SenderType,
    /// Whether it is never unread.
    pub system: bool,
}

/// What is known of a message. Without `created` it is a placeholder:
/// something was said about it, its create is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// +1 for every change of a placeholder, its create included.
    pub version: i64,
    /// The facts of the create; `None` for a placeholder.
    pub created: Option<Created>,
    /// Whether the message was deleted, which is final.
    pub deleted: bool,
}

/// A user's latest state on a reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReactionState {
    /// The place in time of the event that set or unset the reaction.
    pub stamp: Stamp,
    /// Whether the reaction is set.
    pub set: bool,
}

/// Something that derive must know before it can go on. Everything is answered
/// as of one moment: a snapshot of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// Whether the event was taken before.
    Journal(EventKey),
    /// The dialog's counters.
    Dialog(DialogKey),
    /// The facts of a user's membership of a dialog.
    Membership(MembershipKey),
    /// What is known of a message.
    Message(MessageKey),
    /// Whether the status was reached before.
    Receipt(ReceiptKey),
    /// The latest state of a user's reaction.
    Reaction(ReactionKey),
    /// How many users a message counts under the name, and how many names of its
    /// kind it has.
    Name(NameKey),
    /// Whether a topic exists already.
    Topic(TopicKey),
    /// The type learnt of a user.
    UserType(UserKey),
    /// Members whose watermark covers a message of this time.
    MembersPast(DialogKey, Micros),
    /// Users who have read a message one by one.
    Readers(MessageKey),
    /// The stored countable messages of a dialog after the watermark, or the newest
    /// of them.
    Tail(DialogKey, Watermark),
    /// Which messages of the dialog's tail after the watermark a user has read one by
    /// one.
    ReadOf(MembershipKey, Watermark),
    /// How many stored countable messages after the watermark are unread for a user,
    /// were they a member: where the tail is too long.
    Unread(MembershipKey, Watermark),
    /// So many of the latest stored messages of a dialog that are not deleted.
    Latest(DialogKey, usize),
}

/// A dialog as stored and as it is after the events of this batch.
#[derive(Debug, Clone, Default)]
pub(super) struct DialogSlot {
    /// The version that is stored; 0 when the dialog is not.
    pub stored_version: i64,
    /// The dialog after the events of the batch so far.
    pub now: Dialog,
}

/// All that derive knows. Filled by the `know_*` methods with answers to
/// [`Need`]s.
#[derive(Debug, Default)]
pub struct State {
    pub(super) journal: HashMap<EventKey, bool>,
    pub(super) dialogs: HashMap<DialogKey, DialogSlot>,
    pub(super) memberships: HashMap<DialogKey, HashMap<UserId, Membership>>,
    pub(super) messages: HashMap<MessageKey, Message>,
    pub(super) receipts: HashMap<ReceiptKey, bool>,
    pub(super) reactions: HashMap<ReactionKey, Option<ReactionState>>,
    pub(super) names: HashMap<MessageKey, MessageNames>,
    pub(super) topics: HashMap<TopicKey, bool>,
    pub(super) user_types: HashMap<UserKey, Option<SenderType>>,
    /// Per dialog: from which time on the list is complete, and the list.
    pub(super) members_past: HashMap<DialogKey, (Micros, Vec<(UserId, Watermark)>)>,
    pub(super) readers: HashMap<MessageKey, HashSet<UserId>>,
    pub(super) tails: HashMap<DialogKey, Tail>,
    /// Per share: from which watermark on the messages are complete, and those read.
    pub(super) read_of: HashMap<MembershipKey, (Watermark, HashSet<MessageId>)>,
    pub(super) unread: HashMap<(MembershipKey, Watermark), ByType>,
    /// Per dialog: how many were asked for, and what there is, the latest first.
    pub(super) latest: HashMap<DialogKey, (usize, Vec<(Micros, MessageId)>)>,
}

impl State {
    /// Answers [`Need::Journal`]: whether the event was taken before.
    pub fn know_journal(&mut self, key: EventKey, taken: bool) {
        self.journal.insert(key, taken);
    }

    /// Answers [`Need::Dialog`]: the dialog as it is stored.
    pub fn know_dialog(&mut self, key: DialogKey, dialog: Dialog) {
        let slot = DialogSlot {
            stored_version: dialog.version,
            now: dialog,
        };
        self.dialogs.insert(key, slot);
    }

    /// Answers [`Need::Membership`]: the facts of the membership.
    pub fn know_membership(&mut self, key: MembershipKey, membership: Membership) {
        let members = self.memberships.entry(key.dialog).or_default();
        members.insert(key.user, membership);
    }

    /// Answers [`Need::Message`]: what is stored of the message.
    pub fn know_message(&mut self, key: MessageKey, message: Message) {
        self.messages.insert(key, message);
    }

    /// Answers [`Need::Receipt`]: whether the status was reached before.
    pub fn know_receipt(&mut self, key: ReceiptKey, reached: bool) {
        self.receipts.insert(key, reached);
    }

    /// Answers [`Need::Reaction`]: the state that is stored, if there is one.
    pub fn know_reaction(&mut self, key: ReactionKey, state: Option<ReactionState>) {
        self.reactions.insert(key, state);
    }

    /// How many users a message counts under a name, and under how many names of
    /// its kind it counts any.
    pub fn know_name(&mut self, key: NameKey, users: i64, names: i64) {
        let known = self.names.entry(key.message).or_default();
        known.know(key.name, users, names);
    }

    /// Answers [`Need::Topic`]: whether the topic exists.
    pub fn know_topic(&mut self, key: TopicKey, exists: bool) {
        self.topics.insert(key, exists);
    }

    /// Answers [`Need::UserType`]: the type that was learnt of the user, if any
    /// was.
    pub fn know_user_type(&mut self, key: UserKey, learnt: Option<SenderType>) {
        self.user_types.insert(key, learnt);
    }

    /// Answers [`Need::MembersPast`]: the members whose watermarks cover that
    /// time.
    pub fn know_members_past(
        &mut self,
        key: DialogKey,
        at: Micros,
        members: Vec<(UserId, Watermark)>,
    ) {
        self.members_past.insert(key, (at, members));
    }

    /// Answers [`Need::Readers`]: the users who have read the message one by
    /// one.
    pub fn know_readers(&mut self, key: MessageKey, readers: HashSet<UserId>) {
        self.readers.insert(key, readers);
    }

    /// Answers [`Need::Unread`]: what is unread for the user after the
    /// watermark.
    pub fn know_unread(&mut self, key: MembershipKey, watermark: Watermark, unread: ByType) {
        self.unread.insert((key, watermark), unread);
    }

    /// Answers [`Need::Tail`]: the dialog's countable messages after a
    /// watermark.
    pub fn know_tail(&mut self, key: DialogKey, tail: Tail) {
        self.tails.insert(key, tail);
    }

    /// The newest messages of a dialog, as far as they are known.
    pub fn tail(&self, key: &DialogKey) -> Option<&Tail> {
        self.tails.get(key)
    }

    /// Answers [`Need::ReadOf`]: which messages of the tail the user has read.
    pub fn know_read_of(
        &mut self,
        key: MembershipKey,
        watermark: Watermark,
        read: HashSet<MessageId>,
    ) {
        self.read_of.insert(key, (watermark, read));
    }

    /// The latest messages first; fewer than `asked` when there are no more.
    pub fn know_latest(
        &mut self,
        key: DialogKey,
        asked: usize,
        messages: Vec<(Micros, MessageId)>,
    ) {
        self.latest.insert(key, (asked, messages));
    }

    /// A membership, if it is known.
    pub(super) fn membership(&self, key: &MembershipKey) -> Option<&Membership> {
        self.memberships.get(&key.dialog)?.get(&key.user)
    }
}
