//! Giving each new dead letter its entry in the index.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::bus::Written;
use crate::config;
use crate::outage::Outage;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::store::{Class, Store, StoreError};

/// Letters taken together at most, and bytes of their bodies.
const AT_ONCE: usize = 256;

/// Enters letters into the index and settles their originals, until no more
/// come. Waits for a store that is away, for as long as it takes: a letter is
/// never less urgent than the events behind it, which wait for the store too.
pub async fn register(
    store: Store,
    retry: config::Retry,
    mut letters: mpsc::Receiver<Written>,
    outage: Outage,
    shutdown: Shutdown,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while letters.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut backoff = Backoff::new(
            Duration::from_millis(retry.initial_ms),
            Duration::from_millis(retry.max_ms),
        );
        let mut failing = false;
        loop {
            let began = Instant::now();
            let Err(failed) = enter(&store, &batch).await else {
                outage.over();
                break;
            };
            if failed.class() == Class::Retryable {
                outage.seen(began);
            }
            if failed.class() == Class::Permanent {
                // The letters are in the queue: a pass will enter what can be.
                error!(error = %failed, letters = batch.len(),
                    "the store refuses entries of dead letters; they are in the queue");
                break;
            }
            if !std::mem::replace(&mut failing, true) {
                warn!(error = %failed, letters = batch.len(),
                    "dead letters cannot be entered into the index; retrying until they can");
            }
            tokio::select! {
                () = backoff.wait() => {}
                // Unsettled, they come again.
                () = shutdown.requested() => return,
            }
        }
        if failing {
            info!("dead letters are entered into the index again");
        }
        batch.drain(..).for_each(Written::settle);
    }
}

async fn enter(store: &Store, batch: &[Written]) -> Result<(), StoreError> {
    let ids: Vec<_> = batch
        .iter()
        .map(|written| written.letter.id(&written.sealed.body))
        .collect();
    let entries = ids.iter().zip(batch);
    let entries = entries.map(|(id, written)| (id, &written.letter, &written.sealed));
    store.index_letters(entries).await?;
    let mut back: BTreeMap<&str, i64> = BTreeMap::new();
    for job in batch
        .iter()
        .filter_map(|written| written.letter.replayed_by.as_deref())
    {
        *back.entry(job).or_default() += 1;
    }
    for (job, letters) in back {
        store.note_failed_again(job, letters).await?;
    }
    Ok(())
}
