//! Names from outside as names of fields.

use mongodb::bson::error::Result;
use mongodb::bson::raw::CString;

/// Escapes a name for use as a field name and in an update path: `.`, `$` and
/// `%` become `%2E`, `%24`, `%25`, so that it is never taken for a path or an
/// operator, and no two names meet.
pub(crate) fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '%' => out.push_str("%25"),
            '.' => out.push_str("%2E"),
            '$' => out.push_str("%24"),
            c => out.push(c),
        }
    }
    out
}

/// The inverse of [`escape`].
pub(crate) fn unescape(field: &str) -> String {
    field
        .replace("%2E", ".")
        .replace("%24", "$")
        .replace("%25", "%")
}

/// Returns the field of a name from outside.
///
/// # Errors
/// Never for a name of an event: it has no control characters.
pub(crate) fn field(name: &str) -> Result<CString> {
    CString::try_from(escape(name))
}

/// Returns the path to the field of a name from outside in the document `of`.
///
/// # Errors
/// As [`field`].
pub(crate) fn path(of: &str, name: &str) -> Result<CString> {
    CString::try_from(format!("{of}.{}", escape(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_reversible_and_leaves_no_path_characters() {
        for name in [
            "user", "a.b", "$inc", "%2E", "%", "%252E", "👍.$%", "a%24.$",
        ] {
            let field = escape(name);
            assert!(!field.contains(['.', '$']), "{field}");
            assert_eq!(unescape(&field), name);
        }
    }
}
