//! Messages, with what they count under the names that are asked about. A
//! message may have a thousand names: only those are kept.

use std::collections::HashMap;

use mongodb::bson::raw::RawBsonRef;
use mongodb::bson::{RawDocument, deserialize_from_slice};

use super::Loader;
use crate::derive::state::{Message, MessageKey, Name, NameKey, State};
use crate::store::StoreError;
use crate::store::documents::message::{self, MessageDocument};
use crate::store::documents::{Key as _, collection, escape, id, unreadable};

/// Names sought on a message.
type Sought = HashMap<Vec<u8>, Vec<Name>>;

/// What a message document has of names.
#[derive(Debug, Default)]
struct Counted {
    /// How many names of each kind there are under which somebody counts.
    statuses: i64,
    reactions: i64,
    /// Users under the names that are sought, in their order.
    users: Vec<i64>,
}

impl Loader {
    /// Answers for messages themselves, and for names on messages.
    pub(super) async fn messages_and_names(
        &mut self,
        messages: Vec<MessageKey>,
        names: Vec<NameKey>,
        state: &mut State,
    ) -> Result<(), StoreError> {
        let mut asked: HashMap<MessageKey, (bool, Vec<Name>)> = HashMap::new();
        for key in messages {
            asked.entry(key).or_default().0 = true;
        }
        for NameKey { message, name } in names {
            asked.entry(message).or_default().1.push(name);
        }
        let sought = asked.iter().filter(|(_, (_, names))| !names.is_empty());
        let sought = sought.map(|(key, (_, names))| (key.id().raw().into_bytes(), names.clone()));
        let sought: Sought = sought.collect();
        let keys = asked.keys().cloned().collect();
        let read = |raw: &RawDocument| read(raw, &sought);
        for (key, found) in self.find_read(collection::MESSAGES, keys, read).await? {
            let (message, counted) = found.unwrap_or_default();
            let (itself, names) = asked.remove(&key).unwrap_or_default();
            if itself {
                state.know_message(key.clone(), message);
            }
            let users = counted.users.iter().copied().chain(std::iter::repeat(0));
            for (name, users) in names.into_iter().zip(users) {
                let distinct = match name {
                    Name::Status(_) => counted.statuses,
                    Name::Reaction(_) => counted.reactions,
                };
                let message = key.clone();
                state.know_name(NameKey { message, name }, users, distinct);
            }
        }
        Ok(())
    }
}

fn read(raw: &RawDocument, sought: &Sought) -> Result<(Message, Counted), StoreError> {
    let stored: MessageDocument = deserialize_from_slice(raw.as_bytes()).map_err(unreadable)?;
    let id = raw.get_document(id::ID).map_err(unreadable)?;
    let counted = match sought.get(id.as_bytes()) {
        Some(names) => counted(raw, names)?,
        None => Counted::default(),
    };
    Ok((stored.try_into()?, counted))
}

fn counted(raw: &RawDocument, sought: &[Name]) -> Result<Counted, StoreError> {
    let (mut statuses, mut reactions) = (HashMap::new(), HashMap::new());
    for (place, name) in sought.iter().enumerate() {
        match name {
            Name::Status(status) => statuses.insert(escape(status.as_str()), place),
            Name::Reaction(reaction) => reactions.insert(escape(reaction.as_str()), place),
        };
    }
    let mut users = vec![0; sought.len()];
    Ok(Counted {
        statuses: count(raw, message::STATUSES, &statuses, &mut users)?,
        reactions: count(raw, message::REACTIONS, &reactions, &mut users)?,
        users,
    })
}

/// Counts the names in a field, and puts the users of those that are sought into
/// their places.
fn count(
    raw: &RawDocument,
    field: &str,
    sought: &HashMap<String, usize>,
    users: &mut [i64],
) -> Result<i64, StoreError> {
    let Some(RawBsonRef::Document(counts)) = raw.get(field).map_err(unreadable)? else {
        return Ok(0);
    };
    let mut names = 0;
    for element in counts {
        let (name, count) = element.map_err(unreadable)?;
        let count = integer(count);
        names += i64::from(count != 0);
        if let Some(place) = sought.get(name.as_str()) {
            users[*place] = count;
        }
    }
    Ok(names)
}

/// A count, whoever wrote it.
fn integer(count: RawBsonRef<'_>) -> i64 {
    match count {
        RawBsonRef::Int64(count) => count,
        RawBsonRef::Int32(count) => count.into(),
        RawBsonRef::Double(count) => count as i64,
        _ => 0,
    }
}
