//! Messages as gRPC frames them: a byte that says whether they are compressed,
//! which they are not here, four of their length, and they themselves.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

const PREFIX: usize = 5;

/// A message in its frame.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    // No message of a request is as large as a `u32` can say.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// Takes the first message out of what has come, if all of it is there.
///
/// # Errors
/// When it is compressed, for which nobody has asked.
pub(super) fn unframed(come: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let [compressed, a, b, c, d, ..] = come[..] else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Status::internal(
            "an answer that nobody asked to compress is compressed",
        ));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if come.len() < PREFIX + length {
        return Ok(None);
    }
    come.advance(PREFIX);
    Ok(Some(come.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_their_frames_however_they_are_cut() {
        let messages = [vec![1_u8; 300], Vec::new(), vec![7; 3]];
        let all: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(message).to_vec())
            .collect();
        for size in [1, 2, 7, all.len()] {
            let (mut come, mut found) = (BytesMut::new(), Vec::new());
            for piece in all.chunks(size) {
                come.extend_from_slice(piece);
                while let Some(message) = unframed(&mut come).expect("not compressed") {
                    found.push(Vec::<u8>::decode(message).expect("a message"));
                }
            }
            assert_eq!(
                (found.as_slice(), come.len()),
                (&messages[..], 0),
                "by {size}"
            );
        }
        assert!(unframed(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }
}
