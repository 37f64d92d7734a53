//! `users`: the type that was learnt of a user.

use mongodb::bson::raw::CStr;
use mongodb::bson::{RawDocumentBuf, cstr};
use serde::Deserialize;

use super::stamp;
use crate::event::{SenderType, Stamp};

fields! {
    /// `{at, event, type}`: the latest type, and the event that it was learnt from.
    TYPED = "typed";
}

/// The field of [`TYPED`] that has the type.
pub(crate) const TYPE: &str = "type";
const RAW_TYPE: &CStr = cstr!("type");

/// A document of `users`.
#[derive(Debug, Deserialize)]
pub(crate) struct UserDocument {
    typed: TypedDocument,
}

#[derive(Debug, Deserialize)]
struct TypedDocument {
    r#type: String,
}

impl UserDocument {
    /// The type that was learnt; `None` for one that no event can have.
    pub(crate) fn sender_type(&self) -> Option<SenderType> {
        SenderType::new(&self.typed.r#type).ok()
    }
}

/// Encodes the type learnt from an event. Documents compare field by field, so the
/// greater one is of the later stamp.
pub(crate) fn typed(stamp: &Stamp, user_type: &SenderType) -> RawDocumentBuf {
    let mut typed = RawDocumentBuf::new();
    stamp::append(&mut typed, stamp);
    typed.append(RAW_TYPE, user_type.as_str());
    typed
}
