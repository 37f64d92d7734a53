//! Tables and arrays, copied without recursion into a form that lapin takes.

use super::MAX_DEPTH;
use super::notes::Notes;
use super::text::{put_short, readable, take_short};

/// What is left in the place of a table or array that is too deep.
const CUT: u8 = b'V';

/// A table or array that is being copied.
struct Level {
    /// Where it ends in the input.
    end: usize,
    /// Where its length stands in the output.
    length: usize,
    named: bool,
}

/// Copies the table at the front of `input` to `out`, and says how many bytes it
/// took; `None`, and nothing is written, when it is longer than the input.
/// `entries` gets where each of its entries begins in `out`.
///
/// What lapin would refuse is made fit, and noted: a name that is not UTF-8 is
/// written readably, a table or array below [`MAX_DEPTH`] gives way to nothing,
/// and from a value that is of no known type, or does not fit into its table,
/// the rest of that table is kept as bytes.
pub(super) fn copy(
    input: &[u8],
    out: &mut Vec<u8>,
    entries: &mut Vec<usize>,
    notes: &mut Notes,
) -> Option<usize> {
    let mut at = 0;
    let first = enter(input, &mut at, input.len(), true, out)?;
    let mut levels = vec![first];
    while let Some(level) = levels.last() {
        if at == level.end {
            leave(level, out);
            levels.pop();
            continue;
        }
        let (end, outermost) = (level.end, levels.len() == 1);
        let begin = out.len();
        if level.named && !name(&input[..end], &mut at, out, notes) {
            continue;
        }
        if outermost {
            entries.push(begin);
        }
        match input[at..end].first() {
            Some(b'F' | b'A') => {
                let named = input[at] == b'F';
                if levels.len() > MAX_DEPTH {
                    cut(&input[..end], &mut at, out, notes);
                } else {
                    let inner = nested(&input[..end], &mut at, named, out, notes);
                    levels.extend(inner);
                }
            }
            _ => leaf(&input[..end], &mut at, out, notes),
        }
    }
    Some(at)
}

/// Begins a table or array whose length is at `at`.
fn enter(
    input: &[u8],
    at: &mut usize,
    end: usize,
    named: bool,
    out: &mut Vec<u8>,
) -> Option<Level> {
    let length = long(&input[..end], *at)?;
    let begin = *at + 4;
    let level = Level {
        end: begin.checked_add(length).filter(|inner| *inner <= end)?,
        length: out.len(),
        named,
    };
    out.extend_from_slice(&[0; 4]);
    *at = begin;
    Some(level)
}

fn leave(level: &Level, out: &mut [u8]) {
    let begin = level.length + 4;
    let length = (out.len() - begin) as u32;
    out[level.length..begin].copy_from_slice(&length.to_be_bytes());
}

/// Copies the name of an entry. What is no name ends the table.
fn name(table: &[u8], at: &mut usize, out: &mut Vec<u8>, notes: &mut Notes) -> bool {
    let mut rest = &table[*at..];
    let Some(name) = take_short(&mut rest) else {
        notes.unread += 1;
        *at = table.len();
        return false;
    };
    *at = table.len() - rest.len();
    match readable(name) {
        None => put_short(name, out),
        Some(text) => {
            notes.names += 1;
            put_short(text.as_bytes(), out);
        }
    }
    true
}

/// Begins a table or array within another. One that does not fit is kept as
/// bytes.
fn nested(
    table: &[u8],
    at: &mut usize,
    named: bool,
    out: &mut Vec<u8>,
    notes: &mut Notes,
) -> Option<Level> {
    let tag = *at;
    out.push(table[tag]);
    *at += 1;
    let level = enter(table, at, table.len(), named, out);
    if level.is_none() {
        out.pop();
        *at = tag;
        remainder(table, at, out, notes);
    }
    level
}

/// Leaves a table or array out.
fn cut(table: &[u8], at: &mut usize, out: &mut Vec<u8>, notes: &mut Notes) {
    let end = long(table, *at + 1).and_then(|length| (*at + 5).checked_add(length));
    match end.filter(|end| *end <= table.len()) {
        Some(end) => {
            notes.cut += 1;
            out.push(CUT);
            *at = end;
        }
        None => remainder(table, at, out, notes),
    }
}

/// Copies a value that holds no others.
fn leaf(table: &[u8], at: &mut usize, out: &mut Vec<u8>, notes: &mut Notes) {
    let value = &table[*at..];
    let size = match value.first() {
        Some(b'S' | b'x') => long(table, *at + 1).and_then(|length| length.checked_add(4)),
        Some(tag) => fixed(*tag),
        None => None,
    };
    let whole = size.and_then(|size| value.get(..=size));
    match whole {
        Some(value) => {
            out.extend_from_slice(value);
            *at += value.len();
        }
        None => remainder(table, at, out, notes),
    }
}

/// Bytes of a value after its type; `None` for a type that lapin does not know.
pub(super) fn fixed(tag: u8) -> Option<usize> {
    Some(match tag {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        _ => return None,
    })
}

/// Keeps the rest of a table as bytes: where the next value begins is not known.
fn remainder(table: &[u8], at: &mut usize, out: &mut Vec<u8>, notes: &mut Notes) {
    notes.unread += 1;
    let rest = &table[*at..];
    out.push(b'x');
    out.extend_from_slice(&(rest.len() as u32).to_be_bytes());
    out.extend_from_slice(rest);
    *at = table.len();
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*digits) as usize)
}
