//! Answering derive's [`Need`]s.
//!
//! All answers for a batch come from one snapshot: a dialog and what hangs on
//! it are as of the same moment. When any of it has changed by the time of the
//! commit, the dialog's version has too, and the commit is refused.

mod message_names;
mod past;
mod served;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::TryStreamExt as _;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, deserialize_from_slice, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::documents::dialog::DialogDocument;
use super::documents::membership::MembershipDocument;
use super::documents::reaction::WordDocument;
use super::documents::user::UserDocument;
use super::documents::{Key, collection, id, unreadable};
use super::rebuild::generation::{Generation, Generations};
use super::snapshot::Snapshot;
use super::{Store, StoreError};
use crate::derive::state::{
    DialogKey, EventKey, MembershipKey, MessageKey, NameKey, Need, ReactionKey, ReactionState,
    ReceiptKey, State, TopicKey, UserKey,
};
pub use past::MAX_TAIL;
use past::Past;
pub(crate) use served::{MessageCounters, ServedShare};

/// A moment of the store, from which the needs of a batch are answered.
#[derive(Debug)]
pub struct Loader {
    snapshot: Snapshot,
    /// Bytes of documents of one kind that are read at once.
    most: usize,
}

/// What a lane reads for a batch of one kind of document: all of a batch are in
/// memory together, and a few kinds of documents may be large.
const MAX_READ_BYTES: usize = 64 << 20;

/// The needs that are looked up by key, by their kind.
#[derive(Default)]
struct Keys {
    journal: Vec<EventKey>,
    dialogs: Vec<DialogKey>,
    memberships: Vec<MembershipKey>,
    messages: Vec<MessageKey>,
    receipts: Vec<ReceiptKey>,
    reactions: Vec<ReactionKey>,
    names: Vec<NameKey>,
    topics: Vec<TopicKey>,
    users: Vec<UserKey>,
}

impl Store {
    /// Begins a snapshot for loading from these generations. Should they no
    /// longer count, the commit of what is derived will be refused.
    ///
    /// # Errors
    /// When no session is to be had.
    pub(crate) async fn loader(&self, generations: Arc<Generations>) -> Result<Loader, StoreError> {
        Ok(Loader {
            snapshot: self.snapshot_of(generations).await?,
            most: MAX_READ_BYTES,
        })
    }

    /// Begins a snapshot for loading what readers see at its moment. What is
    /// derived from it is not to be committed: writers need an enrolment.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn loader_of_served(&self) -> Result<Loader, StoreError> {
        Ok(Loader {
            snapshot: self.snapshot(None).await?,
            most: usize::MAX,
        })
    }
}

impl Loader {
    /// Answers needs into the state of a batch.
    ///
    /// # Errors
    /// Any [`StoreError`]; some needs may be answered then.
    pub async fn answer(&mut self, needs: Vec<Need>, state: &mut State) -> Result<(), StoreError> {
        self.answer_up_to(MAX_TAIL, needs, state).await
    }

    /// Answers needs, with tails of dialogs of `longest` messages at most.
    ///
    /// # Errors
    /// Any [`StoreError`]; some needs may be answered then.
    pub async fn answer_up_to(
        &mut self,
        longest: usize,
        needs: Vec<Need>,
        state: &mut State,
    ) -> Result<(), StoreError> {
        let (mut keys, mut past) = (Keys::default(), Past::default());
        for need in needs {
            match need {
                Need::Journal(key) => keys.journal.push(key),
                Need::Dialog(key) => keys.dialogs.push(key),
                Need::Membership(key) => keys.memberships.push(key),
                Need::Message(key) => keys.messages.push(key),
                Need::Receipt(key) => keys.receipts.push(key),
                Need::Reaction(key) => keys.reactions.push(key),
                Need::Name(key) => keys.names.push(key),
                Need::Topic(key) => keys.topics.push(key),
                Need::UserType(key) => keys.users.push(key),
                Need::MembersPast(dialog, at) => past.members(dialog, at),
                Need::Readers(message) => past.readers.push(message),
                Need::Tail(dialog, watermark) => past.tail(dialog, watermark),
                Need::ReadOf(MembershipKey { dialog, user }, watermark) => {
                    past.read_of
                        .entry(dialog)
                        .or_default()
                        .push((user, watermark));
                }
                Need::Unread(membership, watermark) => past.unread.push((membership, watermark)),
                Need::Latest(dialog, most) => past.latest(dialog, most),
            }
        }
        self.look_back(past, longest, state).await?;
        self.look_up(keys, state).await
    }

    async fn look_up(&mut self, keys: Keys, state: &mut State) -> Result<(), StoreError> {
        for (key, found) in self.exist(collection::JOURNAL, keys.journal).await? {
            state.know_journal(key, found);
        }
        let dialogs = self.find::<_, DialogDocument>(collection::DIALOGS, keys.dialogs);
        for (key, found) in dialogs.await? {
            state.know_dialog(
                key,
                found
                    .map(TryInto::try_into)
                    .transpose()?
                    .unwrap_or_default(),
            );
        }
        let memberships =
            self.find::<_, MembershipDocument>(collection::MEMBERSHIPS, keys.memberships);
        for (key, found) in memberships.await? {
            let membership = found.map(TryInto::try_into).transpose()?;
            state.know_membership(key, membership.unwrap_or_default());
        }
        self.messages_and_names(keys.messages, keys.names, state)
            .await?;
        for (key, found) in self.exist(collection::RECEIPTS, keys.receipts).await? {
            state.know_receipt(key, found);
        }
        let words = self.find::<_, WordDocument>(collection::REACTIONS, keys.reactions);
        for (key, found) in words.await? {
            state.know_reaction(key, found.map(ReactionState::try_from).transpose()?);
        }
        for (key, found) in self.exist(collection::TOPICS, keys.topics).await? {
            state.know_topic(key, found);
        }
        for (key, found) in self
            .find::<_, UserDocument>(collection::USERS, keys.users)
            .await?
        {
            let known = found.and_then(|user| user.sender_type());
            state.know_user_type(key, known);
        }
        Ok(())
    }

    /// Every key with its document, or with `None` when there is none.
    pub(super) async fn find<K: Key, D: DeserializeOwned>(
        &mut self,
        collection: &'static str,
        keys: Vec<K>,
    ) -> Result<Vec<(K, Option<D>)>, StoreError> {
        let read =
            |raw: &RawDocument| deserialize_from_slice::<D>(raw.as_bytes()).map_err(unreadable);
        self.find_read(collection, keys, read).await
    }

    /// The same, with what is read of each document.
    async fn find_read<K: Key, D>(
        &mut self,
        collection: &'static str,
        keys: Vec<K>,
        read: impl Fn(&RawDocument) -> Result<D, StoreError>,
    ) -> Result<Vec<(K, Option<D>)>, StoreError> {
        let ids: Vec<_> = keys.iter().map(|key| key.id().raw()).collect();
        let mut sought: BTreeMap<Generation, Vec<Document>> = BTreeMap::new();
        for key in &keys {
            let generation = self.snapshot.generations().of(key.tenant());
            sought
                .entry(generation)
                .or_default()
                .push(key.id().document());
        }
        // A key is recognised by the bytes of its `_id`.
        let mut found = HashMap::with_capacity(keys.len());
        let mut bytes = 0;
        for (generation, ids) in sought {
            let documents = self
                .snapshot
                .collection_in::<RawDocumentBuf>(generation, collection);
            let filter = doc! { id::ID: { "$in": ids } };
            let mut cursor = documents
                .find(filter)
                .session(&mut self.snapshot.session)
                .await?;
            while let Some(document) = cursor.stream(&mut self.snapshot.session).try_next().await? {
                bytes += document.as_bytes().len();
                if bytes > self.most && keys.len() > 1 {
                    return Err(StoreError::TooMuch { most: self.most });
                }
                let id = document.get_document(id::ID).map_err(unreadable)?;
                found.insert(id.as_bytes().to_vec(), read(&document)?);
            }
        }
        Ok(keys
            .into_iter()
            .zip(ids)
            .map(|(key, id)| {
                let found = found.remove(id.as_bytes());
                (key, found)
            })
            .collect())
    }

    /// Every key with whether its document exists.
    async fn exist<K: Key>(
        &mut self,
        collection: &'static str,
        keys: Vec<K>,
    ) -> Result<Vec<(K, bool)>, StoreError> {
        let found = self.find::<K, Nothing>(collection, keys).await?;
        Ok(found
            .into_iter()
            .map(|(key, found)| (key, found.is_some()))
            .collect())
    }
}

#[derive(Deserialize)]
struct Nothing {}
