//! A client that watches users, and sees to it that what it is told adds up.

use std::collections::BTreeMap;

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// A stream, and what it has told.
pub(crate) struct Watcher {
    stream: Streaming<v1::WatchUserStatsResponse>,
    /// For ChangeWatch.
    pub watch_id: String,
    /// The latest of each user.
    pub users: BTreeMap<String, v1::UserStats>,
    /// The latest of each user's dialogs, as far as it was told.
    pub dialogs: BTreeMap<(String, String), v1::UserDialogStats>,
    /// Where to resume from.
    pub resume_token: String,
    pub all_told: bool,
    pub updates: u64,
}

impl Watcher {
    /// Opens a stream.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn open(
        mut client: CounterServiceClient<Channel>,
        request: v1::WatchUserStatsRequest,
    ) -> Result<Self, Status> {
        Ok(Self {
            stream: client.watch_user_stats(request).await?.into_inner(),
            watch_id: String::new(),
            users: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            resume_token: String::new(),
            all_told: false,
            updates: 0,
        })
    }

    /// The next message.
    ///
    /// # Errors
    /// When the stream ends, or tells what cannot be: a version that is lower than
    /// one told before, or a total that is not the sum of its parts.
    pub(crate) async fn next(&mut self) -> Result<v1::WatchUserStatsResponse, Status> {
        let told = self.stream.message().await?;
        let told = told.ok_or_else(|| Status::cancelled("the stream has ended"))?;
        if !told.watch_id.is_empty() {
            self.watch_id.clone_from(&told.watch_id);
        }
        if !told.resume_token.is_empty() {
            self.resume_token.clone_from(&told.resume_token);
        }
        self.all_told |= told.all_told;
        for update in &told.updates {
            self.updates += 1;
            self.take(update).map_err(Status::data_loss)?;
        }
        Ok(told)
    }

    fn take(&mut self, update: &v1::UserUpdate) -> Result<(), String> {
        let stats = update
            .user_stats
            .clone()
            .ok_or("an update without a user")?;
        let sum: i64 = stats.unread_by_sender_type.values().sum();
        if sum != stats.total_unread_count {
            return Err(format!("not the sum of its parts: {stats:?}"));
        }
        let user = stats.user_id.clone();
        if let Some(before) = self.users.get(&user)
            && before.version > stats.version
        {
            return Err(format!("{stats:?} after {before:?}"));
        }
        for dialog in &update.user_dialog_stats {
            let key = (user.clone(), dialog.dialog_id.clone());
            if let Some(before) = self.dialogs.get(&key)
                && before.version > dialog.version
            {
                return Err(format!("{dialog:?} after {before:?}"));
            }
            self.dialogs.insert(key, dialog.clone());
        }
        self.users.insert(user, stats);
        Ok(())
    }
}
