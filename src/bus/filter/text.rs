//! Bytes where lapin wants UTF-8.

use std::fmt::Write as _;

/// Longest short string of AMQP, in bytes.
const MAX_BYTES: usize = 255;

/// What stands for bytes that are not UTF-8: the text in them, with each other
/// byte as `\xf6`, of at most 255 bytes. `None` for bytes that are UTF-8.
pub(super) fn readable(bytes: &[u8]) -> Option<String> {
    if std::str::from_utf8(bytes).is_ok() {
        return None;
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string never fails.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    let mut end = MAX_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Some(text)
}

/// Takes a short string of AMQP, its length before it, from the front.
pub(super) fn take_short<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    Some(text)
}

/// Adds a short string, which is cut at 255 bytes by whoever makes it.
pub(super) fn put_short(text: &[u8], out: &mut Vec<u8>) {
    let text = &text[..text.len().min(MAX_BYTES)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn bytes_are_shown_where_they_are_no_text() {
        assert_eq!(readable(b"J\xf6rg").as_deref(), Some("J\\xf6rg"));
        assert_eq!(readable("Jörg".as_bytes()), None);
        assert_eq!(readable(b"\xe2\x82").as_deref(), Some("\\xe2\\x82"));
        let long = readable(&[0xff; 255]).map(|text| text.len());
        assert_eq!(long, Some(255));
    }
}
