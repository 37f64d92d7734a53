//! What went wrong in the store, classified once.

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The driver or the server said so.
    #[error("MongoDB: {0}")]
    Driver(#[from] mongodb::error::Error),
}
