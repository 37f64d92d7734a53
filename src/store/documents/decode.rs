//! Values out of raw BSON, for what is decoded without serde: field by field, in one
//! pass, without a copy.

use mongodb::bson::raw::{RawBsonRef, RawDocument};

use super::id::ID;
use crate::event::{InvalidId, Micros};

/// A document that is not as [`documents`](super) says.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not even BSON.
    #[error("not a BSON document: {0}")]
    Bson(#[from] mongodb::bson::error::Error),
    /// A field of another type, or out of bounds.
    #[error("field {0} has another type than expected or is out of bounds")]
    Field(String),
    /// An id that no event can have.
    #[error("in _id: {0}")]
    Id(#[from] InvalidId),
}

/// A part of the document's key.
pub(crate) fn key<'a>(document: &'a RawDocument, part: &str) -> Result<&'a str, Malformed> {
    let id = document.get(ID)?.and_then(RawBsonRef::as_document);
    let value = match id {
        Some(id) => id.get(part)?,
        None => None,
    };
    value
        .and_then(RawBsonRef::as_str)
        .ok_or_else(|| Malformed::Field(format!("_id.{part}")))
}

pub(crate) fn wrong(name: &str) -> Malformed {
    Malformed::Field(name.to_owned())
}

pub(crate) fn integer(name: &str, value: RawBsonRef<'_>) -> Result<i64, Malformed> {
    match value {
        RawBsonRef::Int64(n) => Ok(n),
        RawBsonRef::Int32(n) => Ok(n.into()),
        _ => Err(wrong(name)),
    }
}

pub(crate) fn boolean(name: &str, value: RawBsonRef<'_>) -> Result<bool, Malformed> {
    value.as_bool().ok_or_else(|| wrong(name))
}

pub(crate) fn text<'a>(name: &str, value: RawBsonRef<'a>) -> Result<&'a str, Malformed> {
    value.as_str().ok_or_else(|| wrong(name))
}

/// A field that is a text.
pub(crate) fn text_of<'a>(document: &'a RawDocument, name: &str) -> Result<&'a str, Malformed> {
    text(name, document.get(name)?.ok_or_else(|| wrong(name))?)
}

pub(crate) fn micros(name: &str, value: RawBsonRef<'_>) -> Result<Micros, Malformed> {
    Micros::new(integer(name, value)?).ok_or_else(|| wrong(name))
}

pub(crate) fn date(name: &str, value: RawBsonRef<'_>) -> Result<Micros, Malformed> {
    let date = value.as_datetime().ok_or_else(|| wrong(name))?;
    let micros = date.timestamp_millis().checked_mul(1_000);
    micros.and_then(Micros::new).ok_or_else(|| wrong(name))
}
