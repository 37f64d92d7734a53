//! A message's properties, made readable for lapin.

use std::borrow::Cow;

use super::notes::Notes;
use super::text::{put_short, readable as readable_text, take_short};
use super::{Originals, table};
use crate::bus::headers::{ALTERED, ORIGINAL_EXCHANGE, ORIGINAL_PROPERTIES, ORIGINAL_ROUTING_KEY};
use crate::deadletter::shortened;

/// Room that is left in a frame that is written anew and large: for the headers
/// of a dead letter, the `x-death` of a broker and other tools' own.
const RESERVE_BYTES: usize = 16 * 1024;
/// The longest text of the header [`ALTERED`], in bytes.
const MAX_ALTERED_BYTES: usize = 1024;

/// Where the headers stand among a message's properties, and their flag.
const HEADERS_PLACE: usize = 2;
const HEADERS: u16 = 1 << (15 - HEADERS_PLACE);

/// What a property is, in the order of the flags from the highest down.
enum Kind {
    Text(&'static str),
    Table,
    Plain(usize),
}

const KINDS: [Kind; 14] = [
    Kind::Text("content_type"),
    Kind::Text("content_encoding"),
    Kind::Table,
    Kind::Plain(1),
    Kind::Plain(1),
    Kind::Text("correlation_id"),
    Kind::Text("reply_to"),
    Kind::Text("expiration"),
    Kind::Text("message_id"),
    Kind::Plain(8),
    Kind::Text("type"),
    Kind::Text("user_id"),
    Kind::Text("app_id"),
    Kind::Text("cluster_id"),
];

/// The properties as they were taken apart.
#[derive(Default)]
struct Taken {
    flags: u16,
    /// What stands before the headers, and after them.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The headers, with their length in front; empty for none.
    headers: Vec<u8>,
    /// Where each header begins.
    entries: Vec<usize>,
    notes: Notes,
}

/// The properties as lapin can take them, in at most `room` bytes. `None` when
/// it takes them as they are, and there is nothing to tell.
pub(super) fn readable(properties: &[u8], told: Originals, room: usize) -> Option<Vec<u8>> {
    let taken = take(properties);
    if taken.notes.is_empty() && told.is_empty() && properties.len() <= room {
        return None;
    }
    Some(taken.written(Some(properties), told, room))
}

/// What stands for properties of so many bytes that were let go.
pub(super) fn let_go(size: usize, told: Originals, room: usize) -> Vec<u8> {
    let mut taken = Taken::default();
    taken.notes.let_go = Some(size);
    taken.written(None, told, room)
}

/// Properties that were kept, with tables and arrays that are too deep to be
/// read without danger left out. `None` for bytes that are no properties.
pub(in crate::bus) fn without_depths(properties: &[u8]) -> Option<Cow<'_, [u8]>> {
    let taken = take(properties);
    if taken.notes.is_empty() {
        return Some(properties.into());
    }
    let told = Originals::default();
    let only_cut = taken.notes.only_cut();
    only_cut.then(|| taken.written(None, told, usize::MAX).into())
}

fn take(properties: &[u8]) -> Taken {
    let mut taken = Taken::default();
    match properties.split_first_chunk::<2>() {
        Some((flags, rest)) => taken.fields(u16::from_be_bytes(*flags), rest),
        None => taken.notes.damaged = true,
    }
    taken
}

impl Taken {
    fn fields(&mut self, flags: u16, mut rest: &[u8]) {
        for (place, kind) in KINDS.iter().enumerate() {
            let flag = 1 << (15 - place);
            if flags & flag == 0 {
                continue;
            }
            if self.field(place, kind, &mut rest).is_none() {
                self.notes.damaged = true;
                return;
            }
            self.flags |= flag;
        }
        self.notes.damaged |= !rest.is_empty();
    }

    /// Copies one property; `None` when it does not fit into what is left.
    fn field(&mut self, place: usize, kind: &Kind, rest: &mut &[u8]) -> Option<()> {
        let beside = match place < HEADERS_PLACE {
            true => &mut self.before,
            false => &mut self.after,
        };
        match *kind {
            Kind::Plain(size) => {
                let (plain, left) = rest.split_at_checked(size)?;
                beside.extend_from_slice(plain);
                *rest = left;
            }
            Kind::Text(name) => {
                let bytes = take_short(rest)?;
                match readable_text(bytes) {
                    None => put_short(bytes, beside),
                    Some(text) => {
                        self.notes.texts.push(name);
                        put_short(text.as_bytes(), beside);
                    }
                }
            }
            Kind::Table => {
                let (headers, entries) = (&mut self.headers, &mut self.entries);
                let size = table::copy(rest, headers, entries, &mut self.notes)?;
                *rest = &rest[size..];
            }
        }
        Some(())
    }
}

/// What is written besides what came.
#[derive(Default)]
struct Ours {
    encoded: Vec<u8>,
    /// What was told when it was read before.
    before: Option<String>,
}

impl Taken {
    /// Puts the properties together again, with headers of ours that tell what
    /// had to change. The largest headers give way, when there is no `room`.
    fn written(mut self, original: Option<&[u8]>, told: Originals, room: usize) -> Vec<u8> {
        let all = std::mem::take(&mut self.headers);
        let mut headers = entries(&all, &self.entries);
        let altered = !self.notes.is_empty();
        let mut ours = self.ours(&headers, told);
        headers.retain(|header| name(header) != ALTERED.as_bytes());
        let room = room.saturating_sub(self.least() + ours.encoded.len());
        let left = drop_largest(&mut headers, room, &mut self.notes);
        if let Some(original) = original
            && altered
            && self.notes.dropped.is_empty()
            && lacks(&headers, ORIGINAL_PROPERTIES)
            && left >= ORIGINAL_PROPERTIES.len() + 6 + original.len() + RESERVE_BYTES
        {
            put(ORIGINAL_PROPERTIES, b'x', original, &mut ours.encoded);
        }
        let told = match ours.before {
            Some(before) => format!("{before}; {}", self.notes),
            None => self.notes.to_string(),
        };
        put(
            ALTERED,
            b'S',
            shortened(&told, MAX_ALTERED_BYTES).as_bytes(),
            &mut ours.encoded,
        );
        self.joined(&headers, &ours.encoded)
    }

    /// The headers that stand whatever else gives way, but for [`ALTERED`].
    fn ours(&mut self, headers: &[&[u8]], told: Originals) -> Ours {
        let mut ours = Ours::default();
        for (property, header, bytes) in [
            ("exchange", ORIGINAL_EXCHANGE, told.exchange),
            ("routing_key", ORIGINAL_ROUTING_KEY, told.routing_key),
        ] {
            let Some(bytes) = bytes else { continue };
            self.notes.texts.push(property);
            // One that is there already tells of an earlier journey.
            if lacks(headers, header) {
                put(header, b'x', &bytes, &mut ours.encoded);
            }
        }
        let before = headers
            .iter()
            .find(|header| name(header) == ALTERED.as_bytes());
        ours.before = before.and_then(|header| match header.get(1 + ALTERED.len()..)? {
            [b'S', _, _, _, _, text @ ..] => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        });
        ours
    }

    /// Bytes of what is not headers, and of [`ALTERED`] at its longest.
    fn least(&self) -> usize {
        let frame = 2 + self.before.len() + self.after.len() + 4;
        frame + ALTERED.len() + 6 + MAX_ALTERED_BYTES
    }

    fn joined(&self, headers: &[&[u8]], ours: &[u8]) -> Vec<u8> {
        let length = ours.len() + headers.iter().map(|header| header.len()).sum::<usize>();
        let mut out = Vec::with_capacity(self.least() + length);
        out.extend_from_slice(&(self.flags | HEADERS).to_be_bytes());
        out.extend_from_slice(&self.before);
        out.extend_from_slice(&(length as u32).to_be_bytes());
        headers
            .iter()
            .for_each(|header| out.extend_from_slice(header));
        out.extend_from_slice(ours);
        out.extend_from_slice(&self.after);
        out
    }
}

/// The headers, each from its name to the end of its value.
fn entries<'h>(headers: &'h [u8], begins: &[usize]) -> Vec<&'h [u8]> {
    let ends = begins.iter().skip(1).copied().chain([headers.len()]);
    let entries = begins.iter().zip(ends);
    entries.map(|(begin, end)| &headers[*begin..end]).collect()
}

fn name(header: &[u8]) -> &[u8] {
    let mut header = header;
    take_short(&mut header).unwrap_or_default()
}

fn lacks(headers: &[&[u8]], wanted: &str) -> bool {
    headers
        .iter()
        .all(|header| name(header) != wanted.as_bytes())
}

/// Lets the largest headers go when they do not all fit; then how much room is
/// left. Some of it stays free, so that the message fits into a frame with the
/// headers of a dead letter, too, and when it is replayed.
fn drop_largest(headers: &mut Vec<&[u8]>, room: usize, notes: &mut Notes) -> usize {
    let mut size: usize = headers.iter().map(|header| header.len()).sum();
    if size > room {
        let room = room.saturating_sub(RESERVE_BYTES);
        let mut sizes: Vec<_> = headers
            .iter()
            .map(|header| header.len())
            .enumerate()
            .collect();
        sizes.sort_by_key(|(place, size)| (std::cmp::Reverse(*size), *place));
        let mut dropped = vec![false; headers.len()];
        for (place, bytes) in sizes {
            if size <= room {
                break;
            }
            size -= bytes;
            dropped[place] = true;
            let name = String::from_utf8_lossy(name(headers[place])).into_owned();
            notes.dropped.push((name, bytes));
        }
        let mut dropped = dropped.into_iter();
        headers.retain(|_| !dropped.next().unwrap_or_default());
    }
    room.saturating_sub(size)
}

/// Adds a header that is text (`S`) or bytes (`x`).
fn put(name: &str, tag: u8, value: &[u8], out: &mut Vec<u8>) {
    put_short(name.as_bytes(), out);
    out.push(tag);
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}
