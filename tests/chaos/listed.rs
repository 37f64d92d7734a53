//! Whether the service itself names every poison once, and nothing else.
//!
//! The queue may hold copies of a letter; the service tells one letter from
//! another by an id, which is made here anew from what was published.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use chat_counters::grpc::v1::{
    DeadLetter, IndexState, ListDeadLettersRequest, SyncDeadLettersRequest,
};
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;

use crate::kit::scenario::{Kind, Published};
use crate::kit::service::{Result, until_for};

/// Few enough for several pages.
const PAGE: i32 = 25;
/// Characters of a letter's id.
const ID_LENGTH: usize = 20;

/// All that the service says is in the dead-letter queue.
#[derive(Debug)]
pub(crate) struct Listing {
    letters: Vec<DeadLetter>,
    index: IndexState,
}

impl Listing {
    /// Copies of all letters.
    fn copies(&self) -> i64 {
        self.letters.iter().map(|letter| letter.copies).sum()
    }

    fn agrees(&self) -> bool {
        let IndexState {
            indexed,
            queued,
            busy,
            unsent,
        } = self.index;
        !busy && unsent == 0 && queued == Some(indexed)
    }
}

/// Has the service compare its index with the queue: letters whose confirm was
/// lost with a connection are in the queue, and known to nobody yet.
///
/// # Errors
/// When it cannot for so long.
pub(crate) async fn sync(url: String, patience: Duration) -> Result<()> {
    let client = DeadLetterServiceClient::connect(url).await?;
    // Somebody who was killed may have the lease still.
    until_for(patience, "index compared with queue", || async {
        let request = SyncDeadLettersRequest {};
        client.clone().sync_dead_letters(request).await.ok()
    })
    .await?;
    Ok(())
}

/// Has the service compare its index with the queue, then lists all letters.
///
/// # Errors
/// When it cannot for so long.
pub(crate) async fn list(url: String, patience: Duration) -> Result<Listing> {
    sync(url.clone(), patience).await?;
    let client = DeadLetterServiceClient::connect(url).await?;
    let agreed = until_for(patience, "index that agrees with the queue", || async {
        let listing = pages(client.clone()).await.ok()?;
        listing.agrees().then_some(listing)
    });
    match agreed.await {
        Ok(listing) => Ok(listing),
        // The judge says in what they differ.
        Err(_) => pages(client).await,
    }
}

async fn pages(mut client: DeadLetterServiceClient<Channel>) -> Result<Listing> {
    let mut letters = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            page_size: PAGE,
            page_token,
            ..Default::default()
        };
        let page = client.list_dead_letters(request).await?.into_inner();
        letters.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            let index = page.index.ok_or("a page without the state of the index")?;
            return Ok(Listing { letters, index });
        }
    }
}

/// Compares with what was published to this exchange, and with how many
/// messages the dead-letter queue has.
pub(crate) fn judge(
    exchange: &str,
    messages: &[Published],
    listing: &Listing,
    depth: u32,
) -> Vec<String> {
    let mut differences = Vec::new();
    let mut listed: BTreeMap<&str, Vec<&DeadLetter>> = BTreeMap::new();
    for letter in &listing.letters {
        listed.entry(&letter.id).or_default().push(letter);
    }
    for message in messages {
        let Kind::Poison(reason) = message.kind else {
            continue;
        };
        let id = id(reason, exchange, message);
        match listed.remove(&id[..]).as_deref() {
            None => differences.push(format!("poison ({reason}) is not listed as {id}")),
            Some([letter]) if letter.reason == reason && letter.copies > 0 => {}
            Some(letters) => differences.push(format!(
                "poison ({reason}) is not one letter in the list: {letters:?}"
            )),
        }
    }
    for letter in listed.values().flatten() {
        differences.push(format!("listed, and no poison: {letter:?}"));
    }
    let copies = listing.copies();
    if copies != i64::from(depth) || copies != listing.index.indexed || !listing.agrees() {
        differences.push(format!(
            "the list has {copies} copies, {:?}, and the queue {depth} messages",
            listing.index
        ));
    }
    differences
}

/// The id of the letter of a message that failed once.
fn id(reason: &str, exchange: &str, message: &Published) -> String {
    let mut digest = Sha256::new();
    for part in [
        reason.as_bytes(),
        &1u64.to_be_bytes(),
        exchange.as_bytes(),
        message.routing_key.as_bytes(),
        &message.body,
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..ID_LENGTH].to_owned()
}
