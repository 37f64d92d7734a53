//! Reading every counter back through `store::read` and comparing it with the
//! model.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use chat_counters::event::{DialogId, MessageId, TenantId, UserId};
use chat_counters::store::Reader;
use chat_counters::store::read::{Dialogs, DialogsOfUser, Messages, Query, UserInDialog, Users};
use tokio::time::Instant;

use crate::kit::model::Model;
use crate::kit::service::Result;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// More dialogs than any user of a test has.
const ALL: usize = 1_000;

/// What is not as the model says, in words; empty when all is well.
struct Differences<'r> {
    reader: &'r Reader,
    found: Vec<String>,
}

/// Reads and compares everything that the model knows of.
pub(crate) async fn differences(reader: &Reader, model: &Model) -> Result<Vec<String>> {
    let found = Vec::new();
    let mut differences = Differences { reader, found };
    for (tenant, users) in by_tenant(model.users()) {
        differences.users(model, &tenant, &users).await?;
    }
    for (tenant, user, dialog) in model.user_dialogs() {
        differences
            .user_in_dialog(model, &tenant, &user, &dialog)
            .await?;
    }
    for (tenant, dialogs) in by_tenant(model.dialogs()) {
        differences.dialogs(model, &tenant, &dialogs).await?;
    }
    for (tenant, messages) in by_tenant(model.messages()) {
        differences.messages(model, &tenant, &messages).await?;
    }
    Ok(differences.found)
}

fn by_tenant(keys: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut tenants: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tenant, key) in keys {
        tenants.entry(tenant).or_default().push(key);
    }
    tenants
}

impl Differences<'_> {
    fn check<T: PartialEq + Debug>(&mut self, key: &str, counters: &str, found: &T, expected: &T) {
        if found != expected {
            let difference = format!("{key}: {counters}: expected {expected:?}, found {found:?}");
            self.found.push(difference);
        }
    }

    async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Answer> {
        Ok(self
            .reader
            .ask(query, None, Instant::now() + PATIENCE)
            .await?)
    }

    async fn users(&mut self, model: &Model, tenant: &str, users: &[String]) -> Result<()> {
        let query = Users {
            tenant: TenantId::new(tenant)?,
            users: users
                .iter()
                .map(|id| UserId::new(id))
                .collect::<std::result::Result<_, _>>()?,
        };
        for (user, found) in users.iter().zip(self.ask(&query).await?) {
            let expected = model.user(tenant, user);
            let key = format!("user {tenant:?} {user:?}");
            self.check(
                &key,
                "dialogs, unread dialogs, unread, messages",
                &(
                    found.dialogs,
                    found.unread_dialogs,
                    found.unread,
                    found.messages,
                ),
                &(
                    expected.dialog_count,
                    expected.unread_dialogs_count,
                    expected.total_unread_count,
                    expected.total_messages_count,
                ),
            );
            let (found, expected) = (found.unread_by_sender_type, expected.unread_by_sender_type);
            self.check(&key, "unread by sender's type", &found, &expected);
            self.listed(model, tenant, user).await?;
        }
        Ok(())
    }

    async fn listed(&mut self, model: &Model, tenant: &str, user: &str) -> Result<()> {
        let query = DialogsOfUser {
            tenant: TenantId::new(tenant)?,
            user: UserId::new(user)?,
            unread_only: false,
            after: None,
            limit: ALL,
        };
        let found = self.ask(&query).await?.dialogs.into_iter();
        let found: Vec<_> = found
            .map(|stats| (stats.dialog.to_string(), stats.unread))
            .collect();
        let dialogs = model.dialogs().into_iter().filter(|(of, _)| of == tenant);
        let counted = dialogs.filter_map(|(_, dialog)| {
            let counts = model.user_dialog(tenant, user, &dialog);
            counts.member.then_some((dialog, counts.unread_count))
        });
        let expected: Vec<_> = counted.collect();
        self.check(
            &format!("user {tenant:?} {user:?}"),
            "list of dialogs",
            &found,
            &expected,
        );
        Ok(())
    }

    async fn user_in_dialog(
        &mut self,
        model: &Model,
        tenant: &str,
        user: &str,
        dialog: &str,
    ) -> Result<()> {
        let query = UserInDialog {
            tenant: TenantId::new(tenant)?,
            user: UserId::new(user)?,
            dialog: DialogId::new(dialog)?,
        };
        let found = self.ask(&query).await?;
        let expected = model.user_dialog(tenant, user, dialog);
        self.check(
            &format!("user {tenant:?} {user:?} in {dialog:?}"),
            "member, unread, by type, joined at, read until",
            &(
                found.member,
                found.unread,
                found.unread_by_sender_type,
                found.joined_at.map(|at| at.get()),
                found.read_until.map(|at| at.get()),
            ),
            &(
                expected.member,
                expected.unread_count,
                expected.unread_by_sender_type,
                expected.joined_at,
                expected.read_until,
            ),
        );
        Ok(())
    }

    async fn dialogs(&mut self, model: &Model, tenant: &str, dialogs: &[String]) -> Result<()> {
        let ids = dialogs.iter().map(|id| DialogId::new(id));
        let query = Dialogs {
            tenant: TenantId::new(tenant)?,
            dialogs: ids.collect::<std::result::Result<_, _>>()?,
        };
        for (dialog, found) in dialogs.iter().zip(self.ask(&query).await?) {
            let expected = model.dialog(tenant, dialog);
            let last_message_at = found.last_message_at.map(|at| at.get());
            self.check(
                &format!("dialog {tenant:?} {dialog:?}"),
                "messages, members, topics, last message at",
                &(found.messages, found.members, found.topics, last_message_at),
                &(
                    expected.message_count,
                    expected.member_count,
                    expected.topic_count,
                    expected.last_message_at,
                ),
            );
        }
        Ok(())
    }

    async fn messages(&mut self, model: &Model, tenant: &str, messages: &[String]) -> Result<()> {
        let ids = messages.iter().map(|id| MessageId::new(id));
        let query = Messages {
            tenant: TenantId::new(tenant)?,
            messages: ids.collect::<std::result::Result<_, _>>()?,
        };
        for (message, found) in messages.iter().zip(self.ask(&query).await?) {
            let expected = model.message(tenant, message);
            let dialog = found.dialog.map(|dialog| dialog.to_string());
            self.check(
                &format!("message {tenant:?} {message:?}"),
                "dialog, statuses, reactions, readers",
                &(dialog, found.statuses, found.reactions, found.readers),
                &(
                    expected.dialog_id,
                    expected.status_counts,
                    expected.reaction_counts,
                    expected.read_count,
                ),
            );
        }
        Ok(())
    }
}
