//! The JSON that producers send, borrowed from the body.
//!
//! Every field is optional here and may hold anything: what is needed, and
//! what it must be, is decided where it is looked up. So that nothing in a field
//! that nobody looks up can refuse an event, a value is first passed over as
//! JSON text and only then read: half a surrogate pair, a number beyond any
//! and a key given twice are values like others, which no look-up accepts.
//! Objects are read in the same pass as what is around them; only where one of
//! these stands in the place of an object is the body read again, section by
//! section.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};
use serde_json::value::RawValue;

/// A value that may be looked up. Arrays and objects are skipped, not kept.
#[derive(Debug, Default)]
pub(super) enum Leaf<'a> {
    /// The field is not there, or `null`.
    #[default]
    Absent,
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// A finite number.
    Number(f64),
    /// Something else: what, in words.
    Other(&'static str),
}

/// A nested object, or what was found in its place.
#[derive(Debug, Default)]
pub(super) enum Section<T> {
    /// Not there, `null` or the empty string.
    #[default]
    Absent,
    /// The object that stands there.
    Found(T),
    /// Something else: what, in words.
    Wrong(&'static str),
}

/// How objects in objects are read.
#[derive(Clone, Copy)]
enum Pass {
    /// With what is around them.
    One,
    /// Each passed over first: nothing but broken JSON is an error then.
    Many,
}

/// Reads a whole body, of which nothing but the values that may be looked up is
/// kept.
pub(super) fn read(json: &str) -> serde_json::Result<Body<'_>> {
    object(json, Pass::One).or_else(|_| object(json, Pass::Many))
}

fn object<'de, T: Object<'de>>(json: &'de str, pass: Pass) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let object = deserializer.deserialize_map(Fields(pass, PhantomData))?;
    deserializer.end()?;
    Ok(object)
}

/// An object of which some fields are kept.
trait Object<'de>: Sized {
    fn fields<A: MapAccess<'de>>(map: A, pass: Pass) -> Result<Self, A::Error>;
}

struct Fields<T>(Pass, PhantomData<T>);

impl<'de, T: Object<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::fields(map, self.0)
    }
}

/// A value that may stand in a field.
trait Field<'de>: Sized {
    fn next<A: MapAccess<'de>>(map: &mut A, pass: Pass) -> Result<Self, A::Error>;
    /// Returns what a key that is given twice leaves: a value that no look-up
    /// accepts.
    fn twice() -> Self;
}

const TWICE: &str = "a key given twice";

/// Returns what a well-formed JSON value is, in words.
pub(super) fn kind(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<'de: 'a, 'a> Field<'de> for Leaf<'a> {
    fn next<A: MapAccess<'de>>(map: &mut A, _: Pass) -> Result<Self, A::Error> {
        let json = map.next_value::<&RawValue>()?.get();
        Ok(match json.as_bytes() {
            [b'"', .., b'"'] => text(json),
            [b'n', ..] => Leaf::Absent,
            [b'-' | b'0'..=b'9', ..] => match json.parse::<f64>() {
                Ok(number) if number.is_finite() => Leaf::Number(number),
                _ => Leaf::Other("a number out of all range"),
            },
            _ => Leaf::Other(kind(json)),
        })
    }

    fn twice() -> Self {
        Leaf::Other(TWICE)
    }
}

fn text(json: &str) -> Leaf<'_> {
    if json.contains('\\') {
        return match serde_json::from_str(json) {
            Ok(text) => Leaf::Text(Cow::Owned(text)),
            // The one thing that passing over a string does not look at.
            Err(_) => Leaf::Other("a string with half a surrogate pair"),
        };
    }
    Leaf::Text(Cow::Borrowed(json.trim_matches('"')))
}

impl<'de, T: Object<'de>> Field<'de> for Section<T> {
    fn next<A: MapAccess<'de>>(map: &mut A, pass: Pass) -> Result<Self, A::Error> {
        if let Pass::One = pass {
            return map.next_value_seed(SectionSeed(PhantomData));
        }
        let json = map.next_value::<&RawValue>()?.get();
        Ok(match json {
            "null" | "\"\"" => Section::Absent,
            _ if json.starts_with('{') => {
                Section::Found(object(json, pass).map_err(A::Error::custom)?)
            }
            _ => Section::Wrong(kind(json)),
        })
    }

    fn twice() -> Self {
        Section::Wrong(TWICE)
    }
}

/// An object that is read with what is around it. What stands in its place is
/// an error, unless it is `null`: [`Pass::Many`] tells what it is.
struct SectionSeed<T>(PhantomData<T>);

impl<'de, T: Object<'de>> DeserializeSeed<'de> for SectionSeed<T> {
    type Value = Section<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Section<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Object<'de>> Visitor<'de> for SectionSeed<T> {
    type Value = Section<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E: Error>(self) -> Result<Section<T>, E> {
        Ok(Section::Absent)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Section<T>, A::Error> {
        T::fields(map, Pass::One).map(Section::Found)
    }
}

/// A key as bytes: as text, half a surrogate pair in it would be an error.
struct Key<'de>(Cow<'de, [u8]>);

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_bytes<E: Error>(self, key: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(key)))
    }
    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(key.to_vec())))
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

/// An object of which some fields are kept: those that may be looked up.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: $type,)*
        }

        impl<'de: 'a, 'a> Object<'de> for $name<'a> {
            fn fields<A: MapAccess<'de>>(mut map: A, pass: Pass) -> Result<Self, A::Error> {
                #[derive(Default)]
                struct Seen {
                    $($field: bool,)*
                }
                let (mut object, mut seen) = ($name::default(), Seen::default());
                while let Some(Key(key)) = map.next_key()? {
                    match &*key {
                        $($key => {
                            object.$field = Field::next(&mut map, pass)?;
                            if std::mem::replace(&mut seen.$field, true) {
                                object.$field = Field::twice();
                            }
                        })*
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(object)
            }
        }
    };
}

object! {
    /// An event as a producer sends it.
    Body {
        b"eventId" => event_id: Leaf<'a>,
        b"tenantId" => tenant_id: Leaf<'a>,
        b"eventType" => event_type: Leaf<'a>,
        b"entityType" => entity_type: Leaf<'a>,
        b"entityId" => entity_id: Leaf<'a>,
        b"actorId" => actor_id: Leaf<'a>,
        b"createdAt" => created_at: Leaf<'a>,
        b"data" => data: Section<Data<'a>>,
    }
}

object! {
    Data {
        b"context" => context: Section<Context<'a>>,
        b"dialog" => dialog: Section<Dialog<'a>>,
        b"message" => message: Section<Message<'a>>,
        b"member" => member: Section<Member<'a>>,
        b"topic" => topic: Section<Topic<'a>>,
        b"user" => user: Section<User<'a>>,
        b"statusUpdate" => status_update: Section<Update<'a>>,
        b"reactionUpdate" => reaction_update: Section<Update<'a>>,
        b"readUntil" => read_until: Leaf<'a>,
        b"type" => r#type: Leaf<'a>,
    }
}

object! {
    Context {
        b"dialogId" => dialog_id: Leaf<'a>,
        b"messageId" => message_id: Leaf<'a>,
        b"userId" => user_id: Leaf<'a>,
    }
}

object! {
    Dialog {
        b"dialogId" => dialog_id: Leaf<'a>,
    }
}

object! {
    Message {
        b"dialogId" => dialog_id: Leaf<'a>,
        b"messageId" => message_id: Leaf<'a>,
        b"senderId" => sender_id: Leaf<'a>,
        b"senderType" => sender_type: Leaf<'a>,
        b"senderInfo" => sender_info: Section<SenderInfo<'a>>,
        b"type" => r#type: Leaf<'a>,
        b"createdAt" => created_at: Leaf<'a>,
        b"statusUpdate" => status_update: Section<Update<'a>>,
        b"reactionUpdate" => reaction_update: Section<Update<'a>>,
    }
}

object! {
    SenderInfo {
        b"type" => r#type: Leaf<'a>,
    }
}

object! {
    Member {
        b"userId" => user_id: Leaf<'a>,
        b"joinedAt" => joined_at: Leaf<'a>,
        b"state" => state: Section<MemberState<'a>>,
    }
}

object! {
    MemberState {
        b"lastSeenAt" => last_seen_at: Leaf<'a>,
    }
}

object! {
    Topic {
        b"topicId" => topic_id: Leaf<'a>,
    }
}

object! {
    User {
        b"userId" => user_id: Leaf<'a>,
        b"type" => r#type: Leaf<'a>,
    }
}

object! {
    /// A `statusUpdate` or a `reactionUpdate`.
    Update {
        b"userId" => user_id: Leaf<'a>,
        b"status" => status: Leaf<'a>,
        b"reaction" => reaction: Leaf<'a>,
        b"action" => action: Leaf<'a>,
        b"oldReaction" => old_reaction: Leaf<'a>,
    }
}
