//! The sizes of messages that gRPC would refuse, so that HTTP refuses them too.

use prost::Message;
use tonic::Status;

/// Refuses what gRPC would refuse to decode, in the same words.
///
/// # Errors
/// `OUT_OF_RANGE`.
pub(super) fn check_request(message: &impl Message, max_bytes: usize) -> Result<(), Status> {
    too_large("decoded", message, max_bytes)
}

/// Refuses what gRPC would refuse to encode, in the same words.
///
/// # Errors
/// `OUT_OF_RANGE`.
pub(super) fn check_answer(message: &impl Message, max_bytes: usize) -> Result<(), Status> {
    too_large("encoded", message, max_bytes)
}

fn too_large(what: &str, message: &impl Message, max_bytes: usize) -> Result<(), Status> {
    match message.encoded_len() {
        bytes if bytes > max_bytes => Err(Status::out_of_range(format!(
            "Error, {what} message length too large: found {bytes} bytes, the limit is: {max_bytes} bytes"
        ))),
        _ => Ok(()),
    }
}
