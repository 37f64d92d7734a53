//! What a client says first: of HTTP/2, 24 fixed bytes and a SETTINGS frame; of
//! HTTP/1, whatever it is.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes of length, type, flags and stream of a frame.
const FRAME_HEADER_BYTES: usize = 9;
/// The type of a SETTINGS frame.
const SETTINGS: u8 = 4;
/// The largest SETTINGS frame that is read: two hundred settings, where HTTP/2 has six.
const MAX_SETTINGS_BYTES: usize = 1_200;

/// Reads all of it, and not a byte more. What cannot become a preface is
/// refused with the first byte that is wrong.
pub(super) async fn read(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(128);
    let begin = PREFACE.len() + FRAME_HEADER_BYTES;
    while bytes.len() < begin {
        let missing = (begin - bytes.len()) as u64;
        if (&mut *client).take(missing).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !bytes
            .iter()
            .zip(PREFACE)
            .all(|(found, expected)| found == expected)
        {
            return Err(refused("the preface of HTTP/2"));
        }
    }
    let payload = settings_bytes(&bytes[PREFACE.len()..])?;
    bytes.resize(begin + payload, 0);
    client.read_exact(&mut bytes[begin..]).await?;
    Ok(bytes)
}

/// Reads what there is of a request: enough to tell that it is not the preface of
/// HTTP/2, or all of that. Whoever takes over waits for the rest of a preface for
/// ever.
pub(super) async fn read_some(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    while bytes.is_empty() || (bytes.len() < PREFACE.len() && PREFACE.starts_with(&bytes)) {
        if (&mut *client).take(256).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

/// The length of the SETTINGS whose header this is.
fn settings_bytes(header: &[u8]) -> io::Result<usize> {
    match *header {
        [a, b, c, SETTINGS, 0, 0, 0, 0, 0] => {
            let bytes = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            match bytes <= MAX_SETTINGS_BYTES {
                true => Ok(bytes),
                false => Err(refused("SETTINGS of a sensible size")),
            }
        }
        _ => Err(refused("SETTINGS")),
    }
}

fn refused(expected: &str) -> io::Error {
    let words = format!("expected {expected}, found something else");
    io::Error::new(io::ErrorKind::InvalidData, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGINNING: &[u8] =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

    #[tokio::test]
    async fn the_beginning_is_read_and_nothing_after_it() {
        let all = [BEGINNING, b"after"].concat();
        let mut client = all.as_slice();
        assert_eq!(read(&mut client).await.unwrap(), BEGINNING);
        assert_eq!(client, b"after");
        for end in 0..BEGINNING.len() {
            let cut = read(&mut &BEGINNING[..end]).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[tokio::test]
    async fn of_http_1_anything_is_enough_and_of_a_preface_all_of_it() {
        let mut client = &b"GET / HTTP/1.1"[..];
        assert_eq!(read_some(&mut client).await.unwrap(), b"GET / HTTP/1.1");
        let (mut client, mut server) = tokio::io::duplex(64);
        for byte in &PREFACE[..PREFACE.len() - 1] {
            tokio::io::AsyncWriteExt::write_all(&mut server, &[*byte])
                .await
                .unwrap();
        }
        let wait = std::time::Duration::from_millis(50);
        let waiting = tokio::time::timeout(wait, read_some(&mut client)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        assert_eq!(read_some(&mut &PREFACE[..]).await.unwrap(), PREFACE);
        assert!(read_some(&mut &b""[..]).await.is_err());
    }

    #[tokio::test]
    async fn anything_else_is_refused_with_its_first_wrong_byte() {
        for wrong in 0..BEGINNING.len() - 6 {
            let mut bytes = BEGINNING.to_vec();
            bytes[wrong] ^= 0x80;
            // A flag or a stream is no SETTINGS at the beginning, and 32,774
            // bytes of them are too many; a length of 134 is not.
            let refused = read(&mut bytes.as_slice()).await.unwrap_err();
            let expected = match wrong {
                26 => io::ErrorKind::UnexpectedEof,
                _ => io::ErrorKind::InvalidData,
            };
            assert_eq!(refused.kind(), expected, "byte {wrong}");
        }
        for words in [&b"G"[..], b"\x16\x03\x01", b"PRI * HTTP/1"] {
            let refused = read(&mut &*words).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{words:?}");
        }
    }
}
