//! Reading every counter back over gRPC and comparing it with the model.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tonic::transport::Channel;

use super::model::Model;
use super::service::Result;

type Client = CounterServiceClient<Channel>;

/// Ids in one batch request: the most that the service allows.
const BATCH: usize = 1_000;
/// Entries in one page: small, so that paging is used.
const PAGE: i32 = 7;

/// A counter that is not what the model says.
#[derive(Debug)]
pub(crate) struct Difference {
    /// Whose counter.
    pub key: String,
    /// Which counter.
    pub counter: &'static str,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            counter,
            expected,
            found,
        } = self;
        write!(f, "{key}: {counter}: expected {expected}, found {found}")
    }
}

/// All comparisons made.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Counters compared.
    pub compared: usize,
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Compares one counter.
    pub(crate) fn check<T: PartialEq + fmt::Debug>(
        &mut self,
        key: &str,
        counter: &'static str,
        expected: &T,
        found: &T,
    ) {
        self.compared += 1;
        if expected != found {
            self.differences.push(Difference {
                key: key.to_owned(),
                counter,
                expected: format!("{expected:?}"),
                found: format!("{found:?}"),
            });
        }
    }
}

/// Reads and compares everything that the model knows of.
///
/// # Errors
/// When the service does not answer.
pub(crate) async fn compare(client: &mut Client, model: &Model) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    users(client, model, &mut comparison).await?;
    user_dialogs(client, model, &mut comparison).await?;
    listed(client, model, &mut comparison).await?;
    dialogs(client, model, &mut comparison).await?;
    messages(client, model, &mut comparison).await?;
    Ok(comparison)
}

fn by_tenant<T>(keys: impl IntoIterator<Item = (String, T)>) -> BTreeMap<String, Vec<T>> {
    let mut tenants: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (tenant, key) in keys {
        tenants.entry(tenant).or_default().push(key);
    }
    tenants
}

fn micros(time: Option<prost_types::Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
}

async fn users(client: &mut Client, model: &Model, comparison: &mut Comparison) -> Result<()> {
    for (tenant_id, users) in by_tenant(model.users()) {
        for user_ids in users.chunks(BATCH) {
            let request = v1::BatchGetUserStatsRequest {
                tenant_id: tenant_id.clone(),
                user_ids: user_ids.to_vec(),
            };
            let answer = client.batch_get_user_stats(request).await?.into_inner();
            for (user, found) in user_ids.iter().zip(answer.user_stats) {
                let expected = model.user(&tenant_id, user);
                let key = format!("user {tenant_id} {user}");
                let mut check = |counter, expected: i64, found: i64| {
                    comparison.check(&key, counter, &expected, &found);
                };
                check("dialog_count", expected.dialog_count, found.dialog_count);
                check(
                    "unread_dialogs_count",
                    expected.unread_dialogs_count,
                    found.unread_dialogs_count,
                );
                check(
                    "total_unread_count",
                    expected.total_unread_count,
                    found.total_unread_count,
                );
                check(
                    "total_messages_count",
                    expected.total_messages_count,
                    found.total_messages_count,
                );
                comparison.check(
                    &key,
                    "unread_by_sender_type",
                    &expected.unread_by_sender_type,
                    &found.unread_by_sender_type,
                );
            }
        }
    }
    Ok(())
}

/// When the latest message of each dialog was, by tenant and dialog.
fn last_messages(model: &Model) -> BTreeMap<(String, String), Option<i64>> {
    let last = |(tenant, dialog): (String, String)| {
        let at = model.dialog(&tenant, &dialog).last_message_at;
        ((tenant, dialog), at)
    };
    model.dialogs().into_iter().map(last).collect()
}

async fn user_dialogs(
    client: &mut Client,
    model: &Model,
    comparison: &mut Comparison,
) -> Result<()> {
    let last_messages = last_messages(model);
    for (tenant_id, user_id, dialog_id) in model.user_dialogs() {
        let expected = model.user_dialog(&tenant_id, &user_id, &dialog_id);
        let key = format!("user {tenant_id} {user_id} in {dialog_id}");
        let dialog = (tenant_id.clone(), dialog_id.clone());
        let last = last_messages.get(&dialog).copied().flatten();
        let request = v1::GetUserDialogStatsRequest {
            tenant_id,
            user_id,
            dialog_id,
            after_event_id: String::new(),
            ..Default::default()
        };
        let found = client.get_user_dialog_stats(request).await?.into_inner();
        comparison.check(&key, "member", &expected.member, &found.member);
        comparison.check(
            &key,
            "unread_count",
            &expected.unread_count,
            &found.unread_count,
        );
        comparison.check(
            &key,
            "unread_by_sender_type",
            &expected.unread_by_sender_type,
            &found.unread_by_sender_type,
        );
        comparison.check(
            &key,
            "joined_at",
            &expected.joined_at,
            &micros(found.joined_at),
        );
        comparison.check(
            &key,
            "read_until",
            &expected.read_until,
            &micros(found.read_until),
        );
        comparison.check(
            &key,
            "last_message_at",
            &last.filter(|_| expected.member),
            &micros(found.last_message_at),
        );
    }
    Ok(())
}

/// The lists of users' dialogs, page by page: complete, in order, and the same
/// counts.
async fn listed(client: &mut Client, model: &Model, comparison: &mut Comparison) -> Result<()> {
    use v1::UserDialogOrder::{LastMessage, UnreadFirst, Unspecified};
    let last_messages = last_messages(model);
    let mut expected: BTreeMap<(String, String), Vec<Listed>> = BTreeMap::new();
    for (tenant, user, dialog) in model.user_dialogs() {
        let counts = model.user_dialog(&tenant, &user, &dialog);
        if counts.member {
            let of = (tenant.clone(), dialog);
            let last = last_messages.get(&of).copied().flatten();
            let list = expected.entry((tenant, user)).or_default();
            list.push((of.1, counts.unread_count, last));
        }
    }
    for ((tenant_id, user_id), expected) in expected {
        for (order, unread_only) in [
            (Unspecified, false),
            (Unspecified, true),
            (LastMessage, false),
            (UnreadFirst, false),
        ] {
            let found = list(client, &tenant_id, &user_id, (order, unread_only)).await?;
            let expected = in_order(&expected, order, unread_only);
            let key =
                format!("list of {tenant_id} {user_id} by {order:?}, unread only: {unread_only}");
            comparison.check(&key, "dialogs", &expected, &found);
        }
    }
    Ok(())
}

/// A dialog in a list: its id, what is unread, and when its latest message was.
type Listed = (String, i64, Option<i64>);

fn in_order(listed: &[Listed], order: v1::UserDialogOrder, unread_only: bool) -> Vec<Listed> {
    use v1::UserDialogOrder::{UnreadFirst, Unspecified};
    let mut listed = listed.to_vec();
    listed.retain(|(_, unread, _)| !unread_only || *unread > 0);
    listed.sort();
    // Sorts are stable: what is alike stays by id.
    if order != Unspecified {
        listed.sort_by_key(|(_, _, last)| Reverse(*last));
    }
    if order == UnreadFirst {
        listed.sort_by_key(|(_, unread, _)| *unread == 0);
    }
    listed
}

async fn list(
    client: &mut Client,
    tenant_id: &str,
    user_id: &str,
    (order, unread_only): (v1::UserDialogOrder, bool),
) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListUserDialogStatsRequest {
            tenant_id: tenant_id.to_owned(),
            user_id: user_id.to_owned(),
            unread_only,
            page_size: PAGE,
            page_token,
            order_by: order.into(),
        };
        let page = client.list_user_dialog_stats(request).await?.into_inner();
        let entries = page.user_dialog_stats.into_iter();
        found.extend(entries.map(|entry| {
            let last = micros(entry.last_message_at);
            (entry.dialog_id, entry.unread_count, last)
        }));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}

async fn dialogs(client: &mut Client, model: &Model, comparison: &mut Comparison) -> Result<()> {
    for (tenant_id, dialogs) in by_tenant(model.dialogs()) {
        for dialog_ids in dialogs.chunks(BATCH) {
            let request = v1::BatchGetDialogStatsRequest {
                tenant_id: tenant_id.clone(),
                dialog_ids: dialog_ids.to_vec(),
            };
            let answer = client.batch_get_dialog_stats(request).await?.into_inner();
            for (dialog, found) in dialog_ids.iter().zip(answer.dialog_stats) {
                let expected = model.dialog(&tenant_id, dialog);
                let key = format!("dialog {tenant_id} {dialog}");
                comparison.check(
                    &key,
                    "message_count",
                    &expected.message_count,
                    &found.message_count,
                );
                comparison.check(
                    &key,
                    "member_count",
                    &expected.member_count,
                    &found.member_count,
                );
                comparison.check(
                    &key,
                    "topic_count",
                    &expected.topic_count,
                    &found.topic_count,
                );
                let last = micros(found.last_message_at);
                comparison.check(&key, "last_message_at", &expected.last_message_at, &last);
            }
        }
    }
    Ok(())
}

async fn messages(client: &mut Client, model: &Model, comparison: &mut Comparison) -> Result<()> {
    for (tenant_id, messages) in by_tenant(model.messages()) {
        for message_ids in messages.chunks(BATCH) {
            let request = v1::BatchGetMessageStatsRequest {
                tenant_id: tenant_id.clone(),
                message_ids: message_ids.to_vec(),
            };
            let answer = client.batch_get_message_stats(request).await?.into_inner();
            for (message, found) in message_ids.iter().zip(answer.message_stats) {
                let expected = model.message(&tenant_id, message);
                let key = format!("message {tenant_id} {message}");
                let statuses = found.status_counts;
                comparison.check(&key, "status_counts", &expected.status_counts, &statuses);
                let reactions = found.reaction_counts;
                comparison.check(
                    &key,
                    "reaction_counts",
                    &expected.reaction_counts,
                    &reactions,
                );
                comparison.check(&key, "read_count", &expected.read_count, &found.read_count);
            }
        }
    }
    Ok(())
}
