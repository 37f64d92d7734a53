//! What an edit changes in a body, for a person to read.

use std::time::Duration;

use similar::TextDiff;

use super::layout;

/// Lines that are shown around each change.
const CONTEXT_LINES: usize = 3;
/// How long comparing two bodies may take.
const DIFF_TIMEOUT: Duration = Duration::from_secs(2);

/// The lines that differ, with some around them: `-` is gone, `+` is new.
pub(in crate::cli) fn unified(before: &[u8], after: &[u8]) -> String {
    let (before, after) = (lines(before), lines(after));
    TextDiff::configure()
        .timeout(DIFF_TIMEOUT)
        .diff_lines(&before, &after)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .missing_newline_hint(false)
        .to_string()
}

/// A body in lines: JSON as it is laid out by everybody, anything else as it
/// is. What would drive the terminal stands as U+FFFD.
pub(in crate::cli) fn lines(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let laid_out = layout::indented(&text);
    let text = laid_out.as_deref().unwrap_or(&text);
    let mut text = text.replace(
        |letter: char| letter.is_control() && letter != '\n',
        "\u{fffd}",
    );
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        let before = br#"{"a":1,"b":2,"c":3,"d":17,"e":5,"f":6,"g":7,"h":8}"#;
        let after = br#"{"a":1,"b":2,"c":3,"d":"ann","e":5,"f":6,"g":7,"h":8}"#;
        let expected = r#"@@ -2,7 +2,7 @@
   "a": 1,
   "b": 2,
   "c": 3,
-  "d": 17,
+  "d": "ann",
   "e": 5,
   "f": 6,
   "g": 7,
"#;
        assert_eq!(unified(before, after), expected);
        assert_eq!(unified(before, before), "");
    }

    #[test]
    fn no_body_drives_the_terminal() {
        assert_eq!(lines(b"\x1b[2J\xff"), "\u{fffd}[2J\u{fffd}\n");
        assert_eq!(
            lines("{\"a\":\"\u{9b}2J\"}".as_bytes()),
            "{\n  \"a\": \"\u{fffd}2J\"\n}\n"
        );
    }
}
