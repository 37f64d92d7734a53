//! Methods of the broker that carry text, of which some comes from producers.

use super::Originals;
use super::notes::Notes;
use super::table;
use super::text::{put_short, readable, take_short};

/// What becomes of a method.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// It passes.
    AsItIs,
    /// It passes, and says how large frames may be; 0 for no limit.
    Tune { frame_max: u32 },
    /// It goes on with this payload.
    Anew(Vec<u8>),
}

#[derive(Clone, Copy)]
enum Field {
    /// So many bytes that are no text.
    Plain(usize),
    /// A short string.
    Text,
    /// A short string that the message's headers are to keep as it was.
    Exchange,
    /// As `Exchange`.
    RoutingKey,
    Table,
    /// Whatever is left, none of it text.
    Rest,
}

/// The fields of the methods that a broker may send and that have text which
/// lapin wants in UTF-8.
fn layout(class: u16, method: u16) -> Option<&'static [Field]> {
    use Field::{Exchange, Plain, Rest, RoutingKey, Table, Text};
    Some(match (class, method) {
        // connection.start, open-ok, close, blocked
        (10, 10) => &[Plain(2), Table, Rest],
        (10, 41 | 60) => &[Text],
        // connection.close, channel.close: a long text of the broker's is cut
        // at 255 bytes, within a character perhaps.
        (10, 50) | (20, 40) => &[Plain(2), Text, Plain(4)],
        // queue.declare-ok
        (50, 11) => &[Text, Plain(8)],
        // basic.consume-ok, cancel-ok, get-empty; cancel
        (60, 21 | 31 | 72) => &[Text],
        (60, 30) => &[Text, Plain(1)],
        // basic.return, deliver, get-ok
        (60, 50) => &[Plain(2), Text, Exchange, RoutingKey],
        (60, 60) => &[Text, Plain(9), Exchange, RoutingKey],
        (60, 71) => &[Plain(9), Exchange, RoutingKey, Plain(4)],
        _ => return None,
    })
}

/// Looks at a method. Names that had to change are put into `originals`.
pub(super) fn read(payload: &[u8], originals: &mut Originals) -> Method {
    let Some(([a, b, c, d], fields)) = payload.split_first_chunk::<4>() else {
        return Method::AsItIs;
    };
    let (class, method) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    if let ((10, 30), Some([_, _, frame_max @ .., _, _])) =
        ((class, method), fields.first_chunk::<8>())
    {
        let frame_max = u32::from_be_bytes(*frame_max);
        return Method::Tune { frame_max };
    }
    let Some(layout) = layout(class, method) else {
        return Method::AsItIs;
    };
    let mut copy = Vec::with_capacity(payload.len());
    copy.extend_from_slice(&payload[..4]);
    let mut changed = false;
    let whole = copied(layout, fields, &mut copy, originals, &mut changed);
    match (whole, changed) {
        (Some(()), true) => Method::Anew(copy),
        // One that is cut short is the broker's own fault.
        _ => Method::AsItIs,
    }
}

fn copied(
    layout: &[Field],
    mut fields: &[u8],
    out: &mut Vec<u8>,
    originals: &mut Originals,
    changed: &mut bool,
) -> Option<()> {
    for field in layout {
        match *field {
            Field::Plain(size) => {
                let (plain, rest) = fields.split_at_checked(size)?;
                out.extend_from_slice(plain);
                fields = rest;
            }
            Field::Rest => out.extend_from_slice(std::mem::take(&mut fields)),
            Field::Table => {
                let mut notes = Notes::default();
                let size = table::copy(fields, out, &mut Vec::new(), &mut notes)?;
                *changed |= !notes.is_empty();
                fields = &fields[size..];
            }
            Field::Text | Field::Exchange | Field::RoutingKey => {
                let name = take_short(&mut fields)?;
                let Some(text) = readable(name) else {
                    put_short(name, out);
                    continue;
                };
                put_short(text.as_bytes(), out);
                *changed = true;
                match field {
                    Field::Exchange => originals.exchange = Some(name.to_vec()),
                    Field::RoutingKey => originals.routing_key = Some(name.to_vec()),
                    _ => {}
                }
            }
        }
    }
    fields.is_empty().then_some(())
}
