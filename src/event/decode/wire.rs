//! The JSON that producers send, borrowed from the body.
//!
//! Every field is optional here and may hold anything: what is needed, and
//! what it must be, is decided where it is looked up.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value that may be looked up. Arrays and objects are skipped, not kept.
#[derive(Debug, Default)]
pub enum Leaf<'a> {
    /// Not there, or `null`.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Number(f64),
    /// Something else: what, in words.
    Other(&'static str),
}

/// A nested object, or what was found in its place.
#[derive(Debug, Default)]
pub enum Section<T> {
    /// Not there, `null` or the empty string.
    #[default]
    Absent,
    Found(T),
    /// Something else: what, in words.
    Wrong(&'static str),
}

const BOOLEAN: &str = "a boolean";
const ARRAY: &str = "an array";
const OBJECT: &str = "an object";
const STRING: &str = "a string";
const NUMBER: &str = "a number";

fn skip_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<(), A::Error> {
    while array.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<(), A::Error> {
    while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

struct LeafVisitor;

impl<'de> Visitor<'de> for LeafVisitor {
    type Value = Leaf<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Leaf::Absent)
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Leaf::Other(BOOLEAN))
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<Self::Value, E> {
        Ok(Leaf::Number(n as f64))
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<Self::Value, E> {
        Ok(Leaf::Number(n as f64))
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<Self::Value, E> {
        Ok(Leaf::Number(n))
    }
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Leaf::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Leaf::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        skip_array(array).map(|()| Leaf::Other(ARRAY))
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        skip_object(object).map(|()| Leaf::Other(OBJECT))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Leaf<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LeafVisitor)
    }
}

struct SectionVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SectionVisitor<T> {
    type Value = Section<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Section::Absent)
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Section::Wrong(BOOLEAN))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Section::Wrong(NUMBER))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Section::Wrong(NUMBER))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Section::Wrong(NUMBER))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(if text.is_empty() {
            Section::Absent
        } else {
            Section::Wrong(STRING)
        })
    }
    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        skip_array(array).map(|()| Section::Wrong(ARRAY))
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(Section::Found)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionVisitor(PhantomData))
    }
}

/// One event as a producer sends it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Body<'a> {
    #[serde(borrow)]
    pub event_id: Leaf<'a>,
    #[serde(borrow)]
    pub tenant_id: Leaf<'a>,
    #[serde(borrow)]
    pub event_type: Leaf<'a>,
    #[serde(borrow)]
    pub entity_type: Leaf<'a>,
    #[serde(borrow)]
    pub entity_id: Leaf<'a>,
    #[serde(borrow)]
    pub actor_id: Leaf<'a>,
    #[serde(borrow)]
    pub created_at: Leaf<'a>,
    #[serde(borrow)]
    pub data: Section<Data<'a>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Data<'a> {
    #[serde(borrow)]
    pub context: Section<Context<'a>>,
    #[serde(borrow)]
    pub dialog: Section<Dialog<'a>>,
    #[serde(borrow)]
    pub message: Section<Message<'a>>,
    #[serde(borrow)]
    pub member: Section<Member<'a>>,
    #[serde(borrow)]
    pub topic: Section<Topic<'a>>,
    #[serde(borrow)]
    pub user: Section<User<'a>>,
    #[serde(borrow)]
    pub status_update: Section<Update<'a>>,
    #[serde(borrow)]
    pub reaction_update: Section<Update<'a>>,
    #[serde(borrow)]
    pub read_until: Leaf<'a>,
    #[serde(borrow)]
    pub r#type: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Context<'a> {
    #[serde(borrow)]
    pub dialog_id: Leaf<'a>,
    #[serde(borrow)]
    pub message_id: Leaf<'a>,
    #[serde(borrow)]
    pub user_id: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Dialog<'a> {
    #[serde(borrow)]
    pub dialog_id: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Message<'a> {
    #[serde(borrow)]
    pub dialog_id: Leaf<'a>,
    #[serde(borrow)]
    pub message_id: Leaf<'a>,
    #[serde(borrow)]
    pub sender_id: Leaf<'a>,
    #[serde(borrow)]
    pub sender_type: Leaf<'a>,
    #[serde(borrow)]
    pub sender_info: Section<SenderInfo<'a>>,
    #[serde(borrow)]
    pub r#type: Leaf<'a>,
    #[serde(borrow)]
    pub created_at: Leaf<'a>,
    #[serde(borrow)]
    pub status_update: Section<Update<'a>>,
    #[serde(borrow)]
    pub reaction_update: Section<Update<'a>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SenderInfo<'a> {
    #[serde(borrow)]
    pub r#type: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Member<'a> {
    #[serde(borrow)]
    pub user_id: Leaf<'a>,
    #[serde(borrow)]
    pub joined_at: Leaf<'a>,
    #[serde(borrow)]
    pub state: Section<MemberState<'a>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemberState<'a> {
    #[serde(borrow)]
    pub last_seen_at: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topic<'a> {
    #[serde(borrow)]
    pub topic_id: Leaf<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User<'a> {
    #[serde(borrow)]
    pub user_id: Leaf<'a>,
    #[serde(borrow)]
    pub r#type: Leaf<'a>,
}

/// A `statusUpdate` or a `reactionUpdate`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Update<'a> {
    #[serde(borrow)]
    pub user_id: Leaf<'a>,
    #[serde(borrow)]
    pub status: Leaf<'a>,
    #[serde(borrow)]
    pub reaction: Leaf<'a>,
    #[serde(borrow)]
    pub action: Leaf<'a>,
    #[serde(borrow)]
    pub old_reaction: Leaf<'a>,
}
