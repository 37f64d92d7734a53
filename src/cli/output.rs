//! Printing data on stdout.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// The format in which data is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns, for people
    #[default]
    Table,
    /// JSON, for programs
    Json,
}

/// Prints a text on stdout.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says something to the person at the terminal, aside from the data.
pub(super) fn aside(text: &str) {
    // With stderr gone there is no one left to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    print(&text)
}

/// Prints a value as indented JSON, its fields in alphabetical order.
pub(super) fn print_sorted_json(value: &impl Serialize) -> io::Result<()> {
    print_json(&sorted(value)?)
}

/// Converts a value to JSON whose fields are in alphabetical order.
pub(super) fn sorted(value: &impl Serialize) -> io::Result<Value> {
    serde_json::to_value(value).map_err(io::Error::other)
}

/// A cell for a text that may be missing.
pub(super) fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    }
}

/// Rows in aligned columns; whatever is a number in every row stands at the
/// right of its column. No header when it is empty.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let cell = |row: &[String], column: usize| {
        let text = row.get(column).map_or("", String::as_str);
        // No text of an event may drive the terminal.
        text.replace(char::is_control, "\u{fffd}")
    };
    let columns = rows
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(0)
        .max(header.len());
    let shape: Vec<(usize, bool)> = (0..columns)
        .map(|column| {
            let width = |row: &Vec<String>| cell(row, column).chars().count();
            let widest = rows.iter().chain([&header]).map(width).max();
            let numbers = rows
                .iter()
                .all(|row| cell(row, column).parse::<f64>().is_ok());
            (widest.unwrap_or(0), numbers && !header.is_empty())
        })
        .collect();
    let head = (!header.is_empty()).then_some(&header);
    let mut text = String::new();
    for row in head.into_iter().chain(rows) {
        let mut line = String::new();
        for (column, (width, right)) in shape.iter().enumerate() {
            let cell = cell(row, column);
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if *right {
                (&gap, "")
            } else {
                (&String::new(), gap.as_str())
            };
            line.push_str(before);
            line.push_str(&cell);
            line.push_str(after);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|&cell| cell.to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_at_the_right() {
        let rows = [row(&["ann", "7", "x"]), row(&["bartholomew", "1200"])];
        assert_eq!(
            table(&["user", "unread", "note"], &rows),
            "user         unread  note\nann               7  x\nbartholomew    1200\n"
        );
        assert_eq!(
            table(&[], &[row(&["a", "1"]), row(&["bb", "22"])]),
            "a   1\nbb  22\n"
        );
        assert_eq!(
            table(&["é", "b"], &[row(&["\u{1b}[2J", "z"])]),
            "é     b\n\u{fffd}[2J  z\n"
        );
    }
}
