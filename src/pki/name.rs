//! Distinguished names as RabbitMQ writes them, which is who a client with a
//! certificate is to it (SASL EXTERNAL).

use std::fmt::Write as _;

use x509_parser::prelude::{AttributeTypeAndValue, X509Name};

/// What RabbitMQ calls a part of a name, by the part's object identifier; others
/// go by that.
const NAMES: [(&str, &str); 17] = [
    ("2.5.4.4", "SN"),
    ("2.5.4.42", "GIVENNAME"),
    ("2.5.4.43", "INITIALS"),
    ("2.5.4.44", "GENERATIONQUALIFIER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "TITLE"),
    ("2.5.4.6", "C"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.65", "PSEUDONYM"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Writes a name with the last part first, and commas between.
pub(super) fn of_rabbitmq(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let name = NAMES.iter().find(|(known, _)| *known == id);
    let name = name.map_or(id.as_str(), |(_, name)| name);
    let value = match attribute.as_str() {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(attribute.as_slice()),
    };
    format!("{name}={}", escaped(&value))
}

/// RFC 4514, as RabbitMQ keeps it.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    let bytes = value.as_bytes();
    for (place, byte) in bytes.iter().copied().enumerate() {
        let (first, last) = (place == 0, place + 1 == bytes.len());
        match byte {
            b' ' if first || last => text.push_str("\\ "),
            b'#' if first => text.push_str("\\#"),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            0..32 | 126.. => {
                let _ = write!(text, "\\{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_is_special_in_a_name_is_escaped() {
        for (value, expected) in [
            ("client", "client"),
            (" a b ", "\\ a b\\ "),
            ("#1#", "\\#1#"),
            ("Firm, \"Ltd\"", "Firm\\, \\\"Ltd\\\""),
            ("é", "\\C3\\A9"),
        ] {
            assert_eq!(escaped(value), expected);
        }
    }
}
