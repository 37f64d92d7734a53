//! `receipts`: a user reached a status for a message. There is nothing but the key.

use serde::Deserialize;

/// The parts of a receipt's key, but for the tenant.
#[derive(Debug, Deserialize)]
pub(crate) struct ReceiptPart {
    /// The message.
    pub(crate) m: String,
    /// The status.
    pub(crate) s: String,
    /// The user.
    pub(crate) u: String,
}
