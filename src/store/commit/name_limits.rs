//! Names on a message, in statements: what keeps them within their limits
//! whoever else writes, and what takes those out that count nobody.

use mongodb::bson::error::Result;
use mongodb::bson::raw::CStr;
use mongodb::bson::{RawArrayBuf, RawBson, RawDocumentBuf, cstr, rawdoc};

use crate::derive::changes::{MessageChange, Room};
use crate::store::documents::{message, path};

/// Has a change of a created message find it only if there is room for the names
/// that are new.
///
/// # Errors
/// As [`path`].
pub(super) fn require_room(filter: &mut RawDocumentBuf, change: &MessageChange) -> Result<()> {
    let mut conditions = RawArrayBuf::new();
    let statuses = &change.room_for_statuses;
    add(&mut conditions, filter, message::STATUSES, statuses, |s| {
        s.as_str()
    })?;
    let reactions = &change.room_for_reactions;
    add(
        &mut conditions,
        filter,
        message::REACTIONS,
        reactions,
        |r| r.as_str(),
    )?;
    if conditions.into_iter().next().is_some() {
        filter.append(cstr!("$expr"), rawdoc! { "$and": conditions });
    }
    Ok(())
}

fn add<N>(
    conditions: &mut RawArrayBuf,
    filter: &mut RawDocumentBuf,
    of: &str,
    room: &Room<N>,
    name: impl Fn(&N) -> &str,
) -> Result<()> {
    match room {
        Room::Any => {}
        Room::AtMost(most) => conditions.push(compared(cstr!("$lte"), of, *most)),
        Room::Exactly { names: all, counts } => {
            conditions.push(compared(cstr!("$eq"), of, *all));
            for (this, users) in counts {
                let field = path(of, name(this))?;
                match users {
                    0 => filter.append(field, none()),
                    users => filter.append(field, *users),
                }
            }
        }
    }
    Ok(())
}

/// Compares how many names there are under which somebody counts.
fn compared(operator: &CStr, of: &str, with: i64) -> RawDocumentBuf {
    let mut operands = RawArrayBuf::new();
    operands.push(rawdoc! { "$size": counting(of) });
    operands.push(with);
    let mut condition = RawDocumentBuf::new();
    condition.append(operator, operands);
    condition
}

/// No count, or none that counts anybody.
fn none() -> RawDocumentBuf {
    let mut none = RawArrayBuf::new();
    none.push(0_i64);
    none.push(RawBson::Null);
    rawdoc! { "$in": none }
}

/// The names under which somebody counts, with their counts.
fn counting(of: &str) -> RawDocumentBuf {
    let mut counts = RawArrayBuf::new();
    counts.push(format!("${of}"));
    counts.push(RawDocumentBuf::new());
    let counts = rawdoc! { "$objectToArray": { "$ifNull": counts } };
    rawdoc! { "$filter": { "input": counts, "cond": { "$ne": ["$$this.v", 0] } } }
}

/// Takes out the reactions that nobody has set.
pub(super) fn without_zeros() -> RawArrayBuf {
    let left = rawdoc! { "$arrayToObject": counting(message::REACTIONS) };
    let mut stages = RawArrayBuf::new();
    stages.push(rawdoc! { "$set": { message::raw::REACTIONS: left } });
    stages
}
