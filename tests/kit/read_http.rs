//! Reading every counter back over HTTP and comparing it with the model.

use std::net::SocketAddr;

use serde_json::Value;

use super::http1::ask;
use super::model::{Counts, Model};
use super::read_back::Comparison;
use super::service::Result;

/// Reads and compares everything that the model knows of, each by a request of its
/// own.
///
/// # Errors
/// When the service does not answer.
pub(crate) async fn compare(http: SocketAddr, model: &Model) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for (tenant, user) in model.users() {
        let found = get(http, &["tenants", &tenant, "users", &user, "stats"]).await?;
        let expected = model.user(&tenant, &user);
        let key = format!("HTTP, user {tenant} {user}");
        let mut check = |counter, expected| {
            comparison.check(&key, counter, &expected, &number(&found, counter));
        };
        check("dialog_count", expected.dialog_count);
        check("unread_dialogs_count", expected.unread_dialogs_count);
        check("total_unread_count", expected.total_unread_count);
        check("total_messages_count", expected.total_messages_count);
        let by_type = counts(&found, "unread_by_sender_type");
        let expected = &expected.unread_by_sender_type;
        comparison.check(&key, "unread_by_sender_type", expected, &by_type);
    }
    for (tenant, user, dialog) in model.user_dialogs() {
        let path = ["tenants", &tenant, "users", &user, "dialogs", &dialog];
        let found = get(http, &path).await?;
        let expected = model.user_dialog(&tenant, &user, &dialog);
        let key = format!("HTTP, user {tenant} {user} in {dialog}");
        let member = found["member"] == true;
        comparison.check(&key, "member", &expected.member, &member);
        let unread = number(&found, "unread_count");
        comparison.check(&key, "unread_count", &expected.unread_count, &unread);
        let by_type = counts(&found, "unread_by_sender_type");
        let expected = &expected.unread_by_sender_type;
        comparison.check(&key, "unread_by_sender_type", expected, &by_type);
    }
    for (tenant, dialog) in model.dialogs() {
        let found = get(http, &["tenants", &tenant, "dialogs", &dialog, "stats"]).await?;
        let expected = model.dialog(&tenant, &dialog);
        let key = format!("HTTP, dialog {tenant} {dialog}");
        let mut check = |counter, expected| {
            comparison.check(&key, counter, &expected, &number(&found, counter));
        };
        check("message_count", expected.message_count);
        check("member_count", expected.member_count);
        check("topic_count", expected.topic_count);
    }
    for (tenant, message) in model.messages() {
        let found = get(http, &["tenants", &tenant, "messages", &message, "stats"]).await?;
        let expected = model.message(&tenant, &message);
        let key = format!("HTTP, message {tenant} {message}");
        let statuses = counts(&found, "status_counts");
        comparison.check(&key, "status_counts", &expected.status_counts, &statuses);
        let reactions = counts(&found, "reaction_counts");
        comparison.check(
            &key,
            "reaction_counts",
            &expected.reaction_counts,
            &reactions,
        );
        let readers = number(&found, "read_count");
        comparison.check(&key, "read_count", &expected.read_count, &readers);
    }
    Ok(comparison)
}

async fn get(http: SocketAddr, path: &[&str]) -> Result<Value> {
    let parts: String = path
        .iter()
        .map(|part| format!("/{}", encoded(part)))
        .collect();
    let answer = ask(http, ("GET", &format!("/v1{parts}")), &[], b"").await?;
    match answer.status.as_u16() {
        200 => answer.json(),
        status => Err(format!("{parts}: {status}: {:?}", answer.body).into()),
    }
}

/// Percent-encoded, all but what never needs it.
fn encoded(part: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    part.bytes().map(byte).collect()
}

fn number(found: &Value, name: &str) -> i64 {
    found[name].as_i64().unwrap_or(-1)
}

fn counts(found: &Value, name: &str) -> Counts {
    let counts = found[name].as_object().into_iter().flatten();
    counts
        .map(|(name, count)| (name.clone(), count.as_i64().unwrap_or(-1)))
        .collect()
}
