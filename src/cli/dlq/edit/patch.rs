//! One value of a JSON text set, every other byte left as it was.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a value cannot be set. Never with what is in the body.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::cli) enum PatchError {
    #[error("the body is not JSON ({0}): use --file")]
    NotJson(String),
    #[error(
        "expected keys and numbers with a dot between them, found an empty one; a dot in a key is written \\."
    )]
    EmptyKey,
    #[error("{at}: expected an object or a list, found {found}")]
    NoInside { at: String, found: &'static str },
    #[error("{at}: it has {length} elements: expected a number up to {length}, found {found:?}")]
    NoElement {
        at: String,
        length: usize,
        found: String,
    },
    #[error("{at}: the key is there {times} times: use --file")]
    Ambiguous { at: String, times: usize },
}

/// Sets what is at `path`: keys and places in lists, with dots between them. A
/// list's length is the place behind its end; objects that are missing are
/// made. `value` is JSON or, when it is none, a text.
///
/// # Errors
/// When the body is not JSON, or the path does not fit it.
pub(in crate::cli) fn set(body: &str, path: &str, value: &str) -> Result<String, PatchError> {
    let keys = keys(path)?;
    let mut inner: &RawValue = parsed(body)?;
    let literal = match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => json.get().to_owned(),
        Err(_) => serde_json::Value::from(value).to_string(),
    };
    let mut replaced = None;
    for (depth, key) in keys.iter().enumerate() {
        match step(inner, &keys[..depth], key)? {
            PathStep::Found(value) => inner = value,
            PathStep::Missing { begin, end } => {
                let inside = span(body, inner);
                let at = inside.start + end..inside.start + end;
                let made = nested(&keys[depth + 1..], &literal);
                replaced = Some((at, format!("{begin}{made}")));
                break;
            }
            PathStep::Nothing => {
                replaced = Some((span(body, inner), nested(&keys[depth..], &literal)));
                break;
            }
        }
    }
    let (at, new) = replaced.unwrap_or_else(|| (span(body, inner), literal));
    let mut text = body.to_owned();
    text.replace_range(at, &new);
    Ok(text)
}

/// What one step of a path leads to.
enum PathStep<'b> {
    Found(&'b RawValue),
    /// To be made `end` bytes after the beginning of the value, with `begin` before.
    Missing {
        begin: String,
        end: usize,
    },
    /// There is `null`, in whose place an object is to be.
    Nothing,
}

/// `at`: the keys that lead to `value`.
fn step<'b>(value: &'b RawValue, at: &[String], key: &str) -> Result<PathStep<'b>, PatchError> {
    let text = value.get();
    let behind = |last: Option<&RawValue>| match last {
        Some(last) => (", ", span(text, last).end),
        None => ("", 1),
    };
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = parsed(text)?;
            let mut same = members.iter().filter(|(name, _)| name == key);
            let found = same.next().map(|(_, value)| PathStep::Found(value));
            match same.count() {
                0 => {}
                more => {
                    let at = place(&[at, &[key.to_owned()]].concat());
                    let times = more + 1;
                    return Err(PatchError::Ambiguous { at, times });
                }
            }
            Ok(found.unwrap_or_else(|| {
                let (comma, end) = behind(members.last().map(|(_, value)| *value));
                let begin = format!("{comma}{}: ", serde_json::Value::from(key));
                PathStep::Missing { begin, end }
            }))
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = parsed(text)?;
            match key.parse::<usize>() {
                Ok(place) if place < elements.len() => Ok(PathStep::Found(elements[place])),
                Ok(place) if place == elements.len() => {
                    let (comma, end) = behind(elements.last().copied());
                    let begin = comma.to_owned();
                    Ok(PathStep::Missing { begin, end })
                }
                _ => Err(PatchError::NoElement {
                    at: place(at),
                    length: elements.len(),
                    found: key.to_owned(),
                }),
            }
        }
        Some(b'n') => Ok(PathStep::Nothing),
        scalar => Err(PatchError::NoInside {
            at: place(at),
            found: match scalar {
                Some(b'"') => "a string",
                Some(b't' | b'f') => "a boolean",
                _ => "a number",
            },
        }),
    }
}

fn place(keys: &[String]) -> String {
    match keys {
        [] => "the body".to_owned(),
        keys => keys.join("."),
    }
}

/// The keys of a path. A backslash takes away the meaning of what follows.
fn keys(path: &str) -> Result<Vec<String>, PatchError> {
    let mut keys = vec![String::new()];
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        let literal = match letter {
            '.' => {
                keys.push(String::new());
                continue;
            }
            '\\' => letters.next().unwrap_or(letter),
            letter => letter,
        };
        if let Some(key) = keys.last_mut() {
            key.push(literal);
        }
    }
    match keys.iter().any(String::is_empty) {
        true => Err(PatchError::EmptyKey),
        false => Ok(keys),
    }
}

/// Objects around a value, the outermost first.
fn nested(keys: &[String], literal: &str) -> String {
    keys.iter().rev().fold(literal.to_owned(), |inner, key| {
        format!("{{{}: {inner}}}", serde_json::Value::from(key.as_str()))
    })
}

fn parsed<'b, T: Deserialize<'b>>(text: &'b str) -> Result<T, PatchError> {
    serde_json::from_str(text).map_err(|error| {
        // The parser's own words may quote the body.
        let (line, column) = (error.line(), error.column());
        PatchError::NotJson(format!("line {line}, column {column}"))
    })
}

/// Where a part of a text is in it.
fn span(whole: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.get().len()
}

/// The members of an object as they stand there, copies of a key too.
struct Members<'b>(Vec<(String, &'b RawValue)>);

impl<'b> Deserialize<'b> for Members<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'b> Visitor<'b> for InOrder {
            type Value = Members<'b>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::layout::tests::json;
    use super::*;

    #[test]
    fn one_value_is_set_and_the_rest_is_as_it_was() {
        let body = "{ \"a\":1.00,\t\"b\" : {\"c\":[ 1, {\"d\":17} ]}, \"e.f\":null }";
        let check = |path: &str, value: &str, from: &str, to: &str| {
            assert!(body.contains(from), "{from}");
            assert_eq!(
                set(body, path, value).unwrap(),
                body.replace(from, to),
                "{path}"
            );
        };
        check("b.c.1.d", "\"ann\"", "17", "\"ann\"");
        check("b.c.1.d", "ann", "17", "\"ann\"");
        check("b.c.1.d", " 18 ", "17", "18");
        check("b.c.1.d", "", "17", "\"\"");
        check("b.c.1.d", "[1,2]", "17", "[1,2]");
        check("e\\.f", "x", "null", "\"x\"");
        check("e\\.f.g.h", "1", "null", "{\"g\": {\"h\": 1}}");
        check("b.c.2", "3", "17}", "17}, 3");
        check("b.x.y", "true", "17} ]", "17} ], \"x\": {\"y\": true}");
        check("g", "1", "null", "null, \"g\": 1");
        assert_eq!(set(" {}", "a.b", "1").unwrap(), " {\"a\": {\"b\": 1}}");
        assert_eq!(set("[ ]", "0", "1").unwrap(), "[1 ]");
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let refused = |body: &str, path: &str| set(body, path, "1").unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"a":{"b":"secret"}}"#, "a.b.c"),
            "a.b: expected an object or a list, found a string"
        );
        assert_eq!(
            refused("17", "a"),
            "the body: expected an object or a list, found a number"
        );
        assert_eq!(
            refused(r#"{"a":[1,2]}"#, "a.3"),
            "a: it has 2 elements: expected a number up to 2, found \"3\""
        );
        assert_eq!(
            refused(r#"{"a":[]}"#, "a.x"),
            "a: it has 0 elements: expected a number up to 0, found \"x\""
        );
        assert_eq!(
            refused(r#"{"a":{"b":1,"b":2}}"#, "a.b"),
            "a.b: the key is there 2 times: use --file"
        );
        assert_eq!(
            refused("{\"a\":\nsecret}", "a"),
            "the body is not JSON (line 2, column 1): use --file"
        );
        for path in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(set("{}", path, "1"), Err(PatchError::EmptyKey), "{path}");
        }
    }

    proptest! {
        #[test]
        fn it_does_what_setting_the_parsed_value_does(
            before in json(),
            path in prop::collection::vec("[a-c.\\\\\"é]|0", 1..4),
            new in json(),
        ) {
            let before = json!({ "a": before, "b": {"a": [], "b": null}, "c": [0] });
            let body = before.to_string();
            let written: Vec<_> = path
                .iter()
                .map(|key| key.replace('\\', "\\\\").replace('.', "\\."))
                .collect();
            let text = set(&body, &written.join("."), &new.to_string());
            let mut expected = before;
            let mut at = Some(&mut expected);
            for key in &path {
                at = at.and_then(|value| match value {
                    Value::Object(members) => Some(members.entry(key).or_insert(Value::Null)),
                    Value::Array(elements) => {
                        let place: usize = key.parse().ok()?;
                        if place == elements.len() {
                            elements.push(Value::Null);
                        }
                        elements.get_mut(place)
                    }
                    Value::Null => {
                        *value = json!({ key: null });
                        value.get_mut(key)
                    }
                    _ => None,
                });
            }
            match at {
                Some(at) => {
                    *at = new;
                    let found: Value = serde_json::from_str(&text.unwrap()).unwrap();
                    prop_assert_eq!(found, expected);
                }
                None => prop_assert!(text.is_err()),
            }
        }
    }
}
