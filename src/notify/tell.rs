//! What is told: asks how those who are due stand, has it published, and waits until
//! the broker has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::NotifyError;
use super::chat3::{self, Addressee};
use super::cloudevents;
use super::gather::{Due, Pair};
use super::told::Told;
use crate::bus::notifier::{Notification, Notifier};
use crate::config::{Notify, NotifyFormat};
use crate::event::{DialogId, Micros, SenderType, TenantId, UserId};
use crate::failpoint::{self, Point};
use crate::retry::Backoff;
use crate::serving::{Remembered, Serving};
use crate::store::read::{
    Cause, ChangedUsers, DialogStats, Dialogs, Query, Reader, Sources, TypesOf, UserDialogStats,
    UserStats,
};
use crate::telemetry::metrics::{NotifyMetrics, Told as Kind};

/// How long one question to memory and store may take.
const QUESTION: Duration = Duration::from_secs(30);
/// Users, and dialogs of users, that are asked about and published together.
const TOGETHER: usize = 500;
/// What the broker has refused is published again after so long at first, and at
/// most: a queue that is full takes a while to be emptied.
const REFUSED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Asks and publishes.
pub(super) struct Teller {
    pub(super) reader: Reader,
    pub(super) serving: Option<Serving>,
    pub(super) config: Notify,
    pub(super) metrics: NotifyMetrics,
}

/// How users stand, each with the dialogs that they are told of.
type Standing = Vec<(UserStats, Vec<UserDialogStats>)>;

impl Teller {
    /// Tells all that is due of a tenant. When it returns, the broker has it.
    pub(super) async fn tell(
        &self,
        notifier: &Notifier,
        (tenant, due): (&TenantId, Due),
        told: &mut Told,
    ) -> Result<(), NotifyError> {
        let causes = self.causes(tenant, &due).await?;
        self.tell_of_dialogs(notifier, (tenant, &due.dialogs), &causes)
            .await?;
        for users in portions(due.users) {
            let wanted = users.iter().map(|(user, pairs)| {
                let dialogs = pairs.keys().cloned().collect::<BTreeSet<_>>();
                (user.clone(), dialogs)
            });
            let query = ChangedUsers {
                tenant: tenant.clone(),
                users: wanted.collect(),
            };
            let types = self.types(tenant, &users).await?;
            let standing = self.recall(query).await?;
            if standing.iter().any(|of_user| is_behind(of_user, &users)) {
                return Err(NotifyError::Behind);
            }
            failpoint::pass(Point::NotifyRead);
            let messages = self.messages(&standing, (&users, &types, &causes), told);
            self.publish(notifier, messages).await?;
            for (user, dialogs) in standing {
                told.note(user, &dialogs);
            }
        }
        Ok(())
    }

    async fn tell_of_dialogs(
        &self,
        notifier: &Notifier,
        (tenant, dialogs): (&TenantId, &BTreeSet<DialogId>),
        causes: &HashMap<DialogId, Cause>,
    ) -> Result<(), NotifyError> {
        let dialogs: Vec<DialogId> = dialogs.iter().cloned().collect();
        for dialogs in dialogs.chunks(TOGETHER) {
            let query = Dialogs {
                tenant: tenant.clone(),
                dialogs: dialogs.to_vec(),
            };
            let stats = self.recall(query).await?;
            let messages = stats.iter().map(|of_dialog| {
                self.metrics.told(Kind::Dialog);
                self.of_dialog(of_dialog, causes.get(&of_dialog.dialog))
            });
            let messages = messages.collect();
            self.publish(notifier, messages).await?;
        }
        Ok(())
    }

    fn of_dialog(&self, stats: &DialogStats, cause: Option<&Cause>) -> Notification {
        let now = Micros::shown_by(SystemTime::now());
        match self.config.format {
            NotifyFormat::Chat3 => chat3::dialog(&self.addressee(None, now), stats, cause),
            _ => cloudevents::dialog(&self.config.source, seconds(now), stats),
        }
    }

    fn addressee<'a>(&self, user_type: Option<&'a SenderType>, now: Micros) -> Addressee<'a> {
        Addressee {
            user_type,
            now,
            version_offset: self.config.chat3_version_offset,
        }
    }

    fn messages(
        &self,
        standing: &Standing,
        (users, types, causes): (
            &Users,
            &HashMap<UserId, SenderType>,
            &HashMap<DialogId, Cause>,
        ),
        told: &Told,
    ) -> Vec<Notification> {
        let now = Micros::shown_by(SystemTime::now());
        let mut messages = Vec::new();
        for (user, dialogs) in standing {
            self.metrics.told(Kind::User);
            if self.config.format == NotifyFormat::CloudEvents {
                let (source, at) = (&self.config.source, seconds(now));
                messages.push(cloudevents::user(source, at, user));
                let of_dialogs = dialogs.iter();
                messages.extend(of_dialogs.map(|of| {
                    self.metrics.told(Kind::UserInDialog);
                    cloudevents::user_in_dialog(source, at, of)
                }));
                continue;
            }
            let to = self.addressee(types.get(&user.user), now);
            let mut of_dialogs = dialogs.iter();
            let cause = of_dialogs.find_map(|of| causes.get(&of.dialog));
            messages.push(chat3::user(&to, user, told.user(user), cause));
            let pairs = users.get(&user.user);
            for of in dialogs {
                let pair = pairs.and_then(|pairs| pairs.get(&of.dialog));
                if is_known(of, pair, told) {
                    continue;
                }
                self.metrics.told(Kind::UserInDialog);
                messages.push(chat3::user_in_dialog(&to, of, causes.get(&of.dialog)));
            }
        }
        messages
    }

    /// Publishes until the broker has taken everything.
    async fn publish(
        &self,
        notifier: &Notifier,
        mut messages: Vec<Notification>,
    ) -> Result<(), NotifyError> {
        let mut backoff = Backoff::new(REFUSED.0, REFUSED.1);
        loop {
            let taken = notifier.publish(&messages).await?;
            let mut taken = taken.into_iter();
            messages.retain(|_| !taken.next().unwrap_or(false));
            if messages.is_empty() {
                return Ok(());
            }
            self.metrics.refused(messages.len());
            backoff.wait().await;
        }
    }

    /// The events behind what is due, where the form names them.
    async fn causes(
        &self,
        tenant: &TenantId,
        due: &Due,
    ) -> Result<HashMap<DialogId, Cause>, NotifyError> {
        if self.config.format != NotifyFormat::Chat3 {
            return Ok(HashMap::new());
        }
        let of_users = due.users.values().flatten();
        let versions: BTreeMap<&DialogId, i64> = of_users
            .filter(|(_, pair)| pair.version > 0)
            .map(|(dialog, pair)| (dialog, pair.version))
            .collect();
        let query = Sources {
            tenant: tenant.clone(),
            dialogs: versions
                .into_iter()
                .map(|(dialog, version)| (dialog.clone(), version))
                .collect(),
        };
        self.read(query).await
    }

    /// The types of users, where the form names them.
    async fn types(
        &self,
        tenant: &TenantId,
        users: &Users,
    ) -> Result<HashMap<UserId, SenderType>, NotifyError> {
        if self.config.format != NotifyFormat::Chat3 {
            return Ok(HashMap::new());
        }
        let query = TypesOf {
            tenant: tenant.clone(),
            users: users.keys().cloned().collect(),
        };
        self.read(query).await
    }

    /// From memory, or else from the store, as any read.
    async fn recall<Q>(&self, query: Q) -> Result<Q::Answer, NotifyError>
    where
        Q: Remembered<Answer: 'static> + 'static,
    {
        let deadline = Instant::now() + QUESTION;
        if let Some(serving) = &self.serving
            && let Some(answer) = serving.answer(&query, deadline).await
        {
            return Ok(answer);
        }
        self.read(query).await
    }

    /// From the store.
    pub(super) async fn read<Q>(&self, query: Q) -> Result<Q::Answer, NotifyError>
    where
        Q: Query<Answer: 'static> + 'static,
    {
        let deadline = Instant::now() + QUESTION;
        let (reader, query) = (self.reader.clone(), Arc::new(query));
        // To its end, whatever becomes of this: what uses the driver is not to be
        // dropped half-way.
        let asked = tokio::spawn(async move { reader.ask(&*query, None, deadline).await });
        Ok(asked.await.map_err(|_| NotifyError::Cut)??)
    }
}

/// Users with the dialogs that they are told of.
type Users = BTreeMap<UserId, BTreeMap<DialogId, Pair>>;

/// So many users and dialogs at a time; one user with very many is in several.
fn portions(users: Users) -> Vec<Users> {
    let mut portions = vec![];
    let (mut portion, mut size) = (Users::new(), 0);
    for (user, mut dialogs) in users {
        while size + 1 + dialogs.len() > TOGETHER {
            let room = TOGETHER.saturating_sub(size + 1).min(dialogs.len());
            let rest = match dialogs.keys().nth(room).cloned() {
                Some(first) => dialogs.split_off(&first),
                None => break,
            };
            if room > 0 {
                portion.insert(user.clone(), std::mem::replace(&mut dialogs, rest));
            } else {
                dialogs = rest;
            }
            portions.push(std::mem::take(&mut portion));
            size = 0;
        }
        size += 1 + dialogs.len();
        portion.insert(user, dialogs);
    }
    portions.push(portion);
    portions
}

/// Whether an answer is from before what it is to tell of: a server that has just
/// become the primary may not show everything yet.
fn is_behind((user, dialogs): &(UserStats, Vec<UserDialogStats>), due: &Users) -> bool {
    let pairs = due.get(&user.user);
    dialogs.iter().any(|of| {
        let pair = pairs.and_then(|pairs| pairs.get(&of.dialog));
        pair.is_some_and(|pair| of.version < pair.version)
    })
}

/// Whether a user has what is unread already: it was told, or it is what it was
/// before the user sent something.
fn is_known(stats: &UserDialogStats, pair: Option<&Pair>, told: &Told) -> bool {
    match told.unread(stats) {
        Some(unread) => unread == stats.unread && pair.is_some_and(|pair| pair.version > 0),
        None => stats.unread == 0 && pair.is_some_and(|pair| pair.has_only_sent),
    }
}

fn seconds(at: Micros) -> u64 {
    u64::try_from(at.get() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(of: &[(&str, usize)]) -> Users {
        let user = |(name, dialogs): &(&str, usize)| {
            let dialogs = (0..*dialogs).map(|n| {
                let dialog = DialogId::new(&format!("d{n:05}")).unwrap();
                (dialog, Pair::default())
            });
            (UserId::new(name).unwrap(), dialogs.collect())
        };
        of.iter().map(user).collect()
    }

    #[test]
    fn portions_have_everything_and_are_small() {
        for of in [
            &[][..],
            &[("a", 1)],
            &[("a", 0), ("b", TOGETHER - 2), ("c", 1)],
            &[("a", 300), ("b", 300), ("c", 300)],
            &[("a", TOGETHER - 1), ("b", TOGETHER), ("c", TOGETHER + 1)],
            &[("a", 7 * TOGETHER), ("b", 3)],
        ] {
            let all = users(of);
            let mut joined = Users::new();
            for portion in portions(all.clone()) {
                let size: usize = portion.values().map(|dialogs| 1 + dialogs.len()).sum();
                assert!(size <= TOGETHER, "{size}");
                for (user, dialogs) in portion {
                    joined.entry(user).or_default().extend(dialogs);
                }
            }
            assert_eq!(joined, all);
        }
    }
}
