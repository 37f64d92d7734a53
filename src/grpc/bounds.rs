//! How much one request may ask for: the one home of bounds that the service
//! enforces, its descriptions name, and its own command line keeps to.

/// The most ids in one batch.
pub(crate) const MAX_BATCH_IDS: usize = 1_000;
/// The entries of a page when a request does not say how many.
pub(crate) const DEFAULT_PAGE_SIZE: u16 = 50;
/// The most dialogs, or entries of a history, in one page.
pub(crate) const MAX_PAGE_SIZE: u16 = 500;
/// The most dead letters, or jobs of their audit, in one page.
pub(crate) const MAX_LETTER_PAGE_SIZE: u16 = 1_000;
/// The most users or dialogs that one stream watches.
pub(crate) const MAX_WATCHED: usize = 10_000;
