//! JSON laid out in lines. The keys keep their order and the numbers their
//! spelling: a value that is read and written again would not.

use serde::de::IgnoredAny;

const INDENT: &str = "  ";

/// One line for each value; `None` when it is not JSON.
pub(in crate::cli) fn indented(json: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut rest = json;
    while let Some(token) = token(rest) {
        rest = &rest[token.len()..];
        match token {
            "{" | "[" => {
                text.push_str(token);
                depth += 1;
                let inner = rest.trim_ascii_start();
                if inner.starts_with(['}', ']']) {
                    text.push_str(&inner[..1]);
                    rest = &inner[1..];
                    depth -= 1;
                } else {
                    new_line(&mut text, depth);
                }
            }
            "}" | "]" => {
                depth -= 1;
                new_line(&mut text, depth);
                text.push_str(token);
            }
            "," => {
                text.push_str(token);
                new_line(&mut text, depth);
            }
            ":" => text.push_str(": "),
            scalar => text.push_str(scalar.trim_ascii()),
        }
    }
    Some(text)
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n(INDENT, depth));
}

/// The first token of JSON; `None` at its end. White space is a token too, or
/// the end of one.
fn token(json: &str) -> Option<&str> {
    let mut bytes = json.bytes().enumerate();
    let (_, first) = bytes.next()?;
    let end = match first {
        b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
        b'"' => {
            let mut escaped = false;
            let closing = bytes.find(|&(_, byte)| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            });
            closing.map_or(json.len(), |(at, _)| at + 1)
        }
        _ => {
            let next = bytes.find(|(_, byte)| b"{}[],:\"".contains(byte));
            next.map_or(json.len(), |(at, _)| at)
        }
    };
    Some(&json[..end])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn values_stand_in_lines_as_they_were_written() {
        let json = "\t{ \"b\" : [1.00,-2e3 , {}, [ ],\n\"\\\"}\\\\\"],\"a\":{\"c\":null} } ";
        let expected = r#"{
  "b": [
    1.00,
    -2e3,
    {},
    [],
    "\"}\\"
  ],
  "a": {
    "c": null
  }
}"#;
        assert_eq!(indented(json).unwrap(), expected);
        assert_eq!(indented(" 17 ").unwrap(), "17");
        for not_json in ["", "{", "{\"a\":}", "x", "[1,]", "{} {}"] {
            assert_eq!(indented(not_json), None, "{not_json}");
        }
    }

    /// Any JSON value.
    pub(crate) fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ \\\\\",:{}\\[\\]]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_layout_is_the_usual_one(value in json()) {
            let usual = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(&indented(&value.to_string()).unwrap(), &usual);
            prop_assert_eq!(&indented(&usual).unwrap(), &usual);
        }
    }
}
