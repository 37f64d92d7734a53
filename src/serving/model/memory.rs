//! What things take, as glibc's allocator hands it out.

use crate::store::commit_log::{ConsumedChanged, Record, ShareChanged};

/// Returns the bytes of an allocation of so many bytes: with its header, rounded up.
/// Nothing for none.
pub(super) const fn heap(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => (bytes + 8 + 15) & !15,
    }
}

/// Returns the bytes of a `Vec` with room for so many.
pub(super) const fn room_for<T>(capacity: usize) -> usize {
    heap(capacity * size_of::<T>())
}

/// Returns the bytes of an id, or a name: its text behind an `Arc`.
pub(super) fn text(text: &str) -> usize {
    heap(2 * size_of::<usize>() + text.len())
}

/// Returns the bytes of an entry of a `HashMap`, with its part of the slots that are
/// free.
pub(super) const fn table_slot<T>() -> usize {
    (size_of::<T>() + 1) * 2
}

/// Makes room for one more. Doubling would leave half of it empty.
pub(super) fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(3));
    }
}

/// Returns about what a record takes, with its texts, in bytes.
pub(super) fn record(record: &Record) -> usize {
    let dialogs = record.dialogs.iter().map(|changed| {
        let texts = text(changed.key.tenant.as_str()) + text(changed.key.dialog.as_str());
        let shares: usize = changed.shares.iter().map(share).sum();
        let shares = room_for::<ShareChanged>(changed.shares.len()) + shares;
        size_of_val(changed) + texts + by_types(changed.now.sequence.iter()) + shares
    });
    heap(size_of::<Record>()) + dialogs.sum::<usize>()
}

fn share(share: &ShareChanged) -> usize {
    let (ConsumedChanged::By(by_type) | ConsumedChanged::To(by_type)) = &share.consumed;
    text(share.user.as_str()) + by_types(by_type.iter())
}

fn by_types<'r>(counts: impl Iterator<Item = (&'r crate::event::SenderType, i64)>) -> usize {
    counts.map(|(name, _)| text(name.as_str()) + 32).sum()
}
