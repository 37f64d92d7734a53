//! Lines of a stream, with memory bounded.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The longest line, in bytes; what is longer is passed over. The largest
/// message that RabbitMQ takes as it is delivered.
const MAX_LINE_BYTES: usize = 16 << 20;

/// The next line of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextLine<'a> {
    /// A line without its end.
    Text(&'a [u8]),
    /// A line over the limit, which was passed over.
    TooLong,
    /// The stream has ended.
    End,
}

/// Reads line by line. `next` may be dropped and called again: nothing is lost.
pub(super) struct Lines<R> {
    reader: R,
    limit: usize,
    line: Vec<u8>,
    /// Whether the line in `line` was given out: then the next call begins
    /// anew.
    given: bool,
    too_long: bool,
    /// The number of bytes that were taken from the reader.
    pub(super) bytes: u64,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Lines {
            reader,
            limit: MAX_LINE_BYTES,
            line: Vec::new(),
            given: true,
            too_long: false,
            bytes: 0,
        }
    }

    /// Reads the next line; the last one needs no end.
    pub(super) async fn next(&mut self) -> std::io::Result<NextLine<'_>> {
        if std::mem::take(&mut self.given) {
            self.line.clear();
            self.too_long = false;
        }
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                if self.line.is_empty() && !self.too_long {
                    return Ok(NextLine::End);
                }
                break;
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            if self.too_long || self.line.len() + part.len() > self.limit {
                self.too_long = true;
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.bytes += used as u64;
            if end.is_some() {
                break;
            }
        }
        self.given = true;
        if self.too_long {
            return Ok(NextLine::TooLong);
        }
        Ok(NextLine::Text(
            self.line.strip_suffix(b"\r").unwrap_or(&self.line),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_whole_and_long_ones_passed_over() {
        let text: &[u8] = b"one\r\n\ntoo long a line\nfour\nlast";
        for buffer in [1, 3, 8, 100] {
            let mut lines = Lines::new(tokio::io::BufReader::with_capacity(buffer, text));
            lines.limit = 5;
            assert_eq!(lines.next().await.unwrap(), NextLine::Text(b"one"));
            assert_eq!(lines.next().await.unwrap(), NextLine::Text(b""));
            assert_eq!(lines.next().await.unwrap(), NextLine::TooLong);
            assert_eq!(lines.next().await.unwrap(), NextLine::Text(b"four"));
            assert_eq!(lines.next().await.unwrap(), NextLine::Text(b"last"));
            assert_eq!(lines.next().await.unwrap(), NextLine::End);
            assert_eq!(lines.next().await.unwrap(), NextLine::End);
            assert_eq!(lines.bytes, text.len() as u64);
        }
    }
}
