//! What is told: asks how those who are due stand, has it published, and waits until
//! the broker has it.

mod portions;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::portions::{MAX_PORTION, Users, halves, portions};
use super::NotifyError;
use super::chat3::{self, Addressee};
use super::cloudevents;
use super::gather::Due;
use super::last_published::LastPublished;
use super::pace::Pace;
use crate::bus::notifier::{Notification, Notifier};
use crate::config::{Notify, NotifyFormat};
use crate::event::{DialogId, Micros, SenderType, TenantId, UserId};
use crate::failpoint::{self, Point};
use crate::serving::{MemoryQuery, Serving};
use crate::store::read::{
    AsOfCut, Cause, ChangedUsers, DialogStats, Dialogs, PlaceInShares, Query, ReadError, Reader,
    Sources, TypesOf, UserDialogStats, UserStats, WithCut,
};
use crate::store::{NotificationCursor, Renewed, detached};
use crate::telemetry::metrics::{About, NotifyMetrics};

/// How long one question to memory and store may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The waits before what the broker has refused is published again: a queue
/// that is full may be emptied right now.
const REPUBLISH_DELAYS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// Asks how users and dialogs stand, and publishes notifications about them.
pub(super) struct NotificationPublisher {
    pub(super) reader: Reader,
    /// Memory of its own: those whom readers look at do not make room for all others.
    pub(super) serving: Option<Serving>,
    pub(super) pace: Pace,
    pub(super) config: Notify,
    pub(super) metrics: NotifyMetrics,
    /// What was published last; kept for the form of Chat3 alone, which says
    /// what is new.
    pub(super) last_published: Mutex<LastPublished>,
}

/// By what right something is published, and as of when it must be.
#[derive(Clone, Copy)]
pub(super) struct PublishContext<'a> {
    pub(super) notifier: &'a Notifier,
    pub(super) lease: &'a Renewed,
    /// All of it must be in what is told.
    pub(super) floor: &'a NotificationCursor,
    pub(super) source: ReadSource,
}

/// Where it is asked how somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadSource {
    /// Memory first: they will be told again soon.
    Memory,
    /// The store: everybody is told once.
    Store,
}

/// How users stand, each with the dialogs that they are told of.
type UserStandings = Vec<(UserStats, Vec<UserDialogStats>)>;

/// What the form of Chat3 names besides counters.
#[derive(Default)]
struct Chat3Context {
    causes: HashMap<DialogId, Cause>,
    types: HashMap<UserId, SenderType>,
}

impl NotificationPublisher {
    /// Tells all that is due of a tenant. When it returns, the broker has it.
    pub(super) async fn tell(
        &self,
        context: PublishContext<'_>,
        (tenant, due): (&TenantId, Due),
    ) -> Result<(), NotifyError> {
        let causes = self.causes(tenant, &due).await?;
        let mut refused = Refused::default();
        refused.add(
            self.tell_of_dialogs(context, (tenant, &due.dialogs), &causes)
                .await,
        )?;
        let mut chat3_context = Chat3Context {
            causes,
            ..Chat3Context::default()
        };
        let mut left = portions(due.users);
        while let Some(users) = left.pop() {
            chat3_context.types = self.types(tenant, &users).await?;
            match self
                .tell_users(context, (tenant, &users), &chat3_context)
                .await
            {
                // They have very many dialogs.
                Err(NotifyError::Read(ReadError::TooSlow)) if users.len() > 1 => {
                    left.extend(halves(users));
                }
                told => refused.add(told)?,
            }
            self.pace.rest().await;
        }
        refused.all()
    }

    /// Tells users of shares, whatever has changed about them, and of the dialogs among
    /// these that have too many members to tell each.
    pub(super) async fn tell_shares(
        &self,
        context: PublishContext<'_>,
        (tenant, shares): (&TenantId, &[PlaceInShares]),
    ) -> Result<(), NotifyError> {
        let mut due = Due::of(shares);
        let dialogs: BTreeSet<&DialogId> = shares.iter().map(|share| &share.dialog).collect();
        let query = Dialogs {
            tenant: tenant.clone(),
            dialogs: dialogs.into_iter().cloned().collect(),
        };
        let limit = i64::from(self.config.fan_out_limit);
        let stats = self.ask(context, query).await?.into_iter();
        let large = stats.filter(|of_dialog| of_dialog.members > limit);
        due.dialogs.extend(large.map(|of_dialog| of_dialog.dialog));
        self.tell(context, (tenant, due)).await
    }

    async fn tell_users(
        &self,
        context: PublishContext<'_>,
        (tenant, users): (&TenantId, &Users),
        chat3_context: &Chat3Context,
    ) -> Result<(), NotifyError> {
        let query = ChangedUsers {
            tenant: tenant.clone(),
            users: users.clone(),
        };
        let standing = self.ask(context, query).await?;
        failpoint::pass(Point::NotifyRead);
        let messages = self.messages(&standing, chat3_context);
        self.publish(context, messages).await?;
        if self.config.format == NotifyFormat::Chat3 {
            let mut told = self.last_published();
            for (user, dialogs) in standing {
                told.note(user, &dialogs);
            }
        }
        Ok(())
    }

    async fn tell_of_dialogs(
        &self,
        context: PublishContext<'_>,
        (tenant, dialogs): (&TenantId, &BTreeSet<DialogId>),
        causes: &HashMap<DialogId, Cause>,
    ) -> Result<(), NotifyError> {
        let dialogs: Vec<DialogId> = dialogs.iter().cloned().collect();
        let mut refused = Refused::default();
        for dialogs in dialogs.chunks(MAX_PORTION) {
            let query = Dialogs {
                tenant: tenant.clone(),
                dialogs: dialogs.to_vec(),
            };
            let stats = self.ask(context, query).await?;
            let now = Micros::shown_by(SystemTime::now());
            let message = |of: &DialogStats| {
                let message = match self.config.format {
                    NotifyFormat::Chat3 => {
                        let to = self.addressee(None, now);
                        chat3::dialog(&to, of, causes.get(&of.dialog))
                    }
                    NotifyFormat::CloudEvents | NotifyFormat::Off => {
                        cloudevents::dialog(&self.config.source, seconds(now), of)
                    }
                };
                (About::Dialog, message)
            };
            let messages = stats.iter().map(message).collect();
            refused.add(self.publish(context, messages).await)?;
        }
        refused.all()
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
        standing: &UserStandings,
        chat3_context: &Chat3Context,
    ) -> Vec<(About, Notification)> {
        let now = Micros::shown_by(SystemTime::now());
        let told = self.last_published();
        let mut messages = Vec::new();
        for (user, dialogs) in standing {
            match self.config.format {
                NotifyFormat::Chat3 => {
                    let to = self.addressee(chat3_context.types.get(&user.user), now);
                    in_chat3(
                        &to,
                        (user, dialogs),
                        &chat3_context.causes,
                        &told,
                        &mut messages,
                    );
                }
                NotifyFormat::CloudEvents | NotifyFormat::Off => {
                    let (source, at) = (&self.config.source, seconds(now));
                    messages.push((About::User, cloudevents::user(source, at, user)));
                    messages.extend(dialogs.iter().map(|of| {
                        let message = cloudevents::user_in_dialog(source, at, of);
                        (About::UserInDialog, message)
                    }));
                }
            }
        }
        messages
    }

    /// Publishes what the broker takes. What it refuses, since a queue is full, is
    /// tried again a few times.
    async fn publish(
        &self,
        context: PublishContext<'_>,
        messages: Vec<(About, Notification)>,
    ) -> Result<(), NotifyError> {
        let (mut about, mut messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
        let mut pauses = REPUBLISH_DELAYS.into_iter();
        loop {
            if context.lease.is_lost() {
                return Err(NotifyError::LeaseLost);
            }
            let taken = context.notifier.publish(&messages).await?;
            for (about, _) in about.iter().zip(&taken).filter(|(_, taken)| **taken) {
                self.metrics.published(*about);
            }
            retain_refused(&mut about, &taken);
            retain_refused(&mut messages, &taken);
            if messages.is_empty() {
                return Ok(());
            }
            self.metrics.refused(messages.len());
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(NotifyError::Refused(messages.len())),
            }
        }
    }

    /// The events behind what is due, where the form names them.
    async fn causes(
        &self,
        tenant: &TenantId,
        due: &Due,
    ) -> Result<HashMap<DialogId, Cause>, NotifyError> {
        if self.config.format != NotifyFormat::Chat3 || due.versions.is_empty() {
            return Ok(HashMap::new());
        }
        let versions = due.versions.iter();
        let query = Sources {
            tenant: tenant.clone(),
            dialogs: versions
                .map(|(dialog, version)| (dialog.clone(), *version))
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

    /// An answer that has everything in it that it is to tell of.
    async fn ask<Q>(&self, context: PublishContext<'_>, query: Q) -> Result<Q::Answer, NotifyError>
    where
        Q: MemoryQuery<Answer: 'static> + 'static,
    {
        let query = WithCut(query);
        if let (Some(serving), ReadSource::Memory) = (&self.serving, context.source)
            && let Some(answer) = serving.answer(&query, Instant::now() + QUERY_TIMEOUT).await
        {
            return in_time(answer, context.floor);
        }
        in_time(self.read(query).await?, context.floor)
    }

    /// Asks the store; the answer has everything in it that it is to tell of.
    pub(super) async fn read_in_time<Q>(
        &self,
        query: Q,
        floor: &NotificationCursor,
    ) -> Result<Q::Answer, NotifyError>
    where
        Q: Query<Answer: 'static> + 'static,
    {
        in_time(self.read(WithCut(query)).await?, floor)
    }

    async fn read<Q>(&self, query: Q) -> Result<Q::Answer, NotifyError>
    where
        Q: Query<Answer: 'static> + 'static,
    {
        let deadline = Instant::now() + QUERY_TIMEOUT;
        let reader = self.reader.clone();
        let asked = async move { Ok(reader.ask(&query, None, deadline).await?) };
        detached(asked).await
    }

    fn last_published(&self) -> MutexGuard<'_, LastPublished> {
        self.last_published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the broker has not taken. Others go on meanwhile: all queues but those that are
/// full get everything.
#[derive(Default)]
struct Refused(usize);

impl Refused {
    fn add(&mut self, told: Result<(), NotifyError>) -> Result<(), NotifyError> {
        match told {
            Err(NotifyError::Refused(messages)) => self.0 += messages,
            told => return told,
        }
        Ok(())
    }

    fn all(self) -> Result<(), NotifyError> {
        match self.0 {
            0 => Ok(()),
            messages => Err(NotifyError::Refused(messages)),
        }
    }
}

fn retain_refused<T>(messages: &mut Vec<T>, taken: &[bool]) {
    let mut taken = taken.iter();
    messages.retain(|_| !taken.next().copied().unwrap_or(false));
}

/// What Chat3's clients are told of a user.
fn in_chat3(
    to: &Addressee<'_>,
    (user, dialogs): (&UserStats, &[UserDialogStats]),
    causes: &HashMap<DialogId, Cause>,
    told: &LastPublished,
    messages: &mut Vec<(About, Notification)>,
) {
    let cause = dialogs.iter().find_map(|of| causes.get(&of.dialog));
    let message = chat3::user(to, user, told.user(user), cause);
    messages.push((About::User, message));
    for of in dialogs {
        let cause = causes.get(&of.dialog);
        // Who has sent has no more to read; who is told anew is told everything.
        if cause.is_some() && told.unread(of) == Some(of.unread) {
            continue;
        }
        let message = chat3::user_in_dialog(to, of, cause);
        messages.push((About::UserInDialog, message));
    }
}

/// A server that has just become the primary may not show everything yet.
fn in_time<A>((as_of, answer): (AsOfCut, A), floor: &NotificationCursor) -> Result<A, NotifyError> {
    let is_of_epoch = |epoch| epoch >= floor.generations.epoch;
    match as_of.cut.covers(&floor.cut) && as_of.epoch.is_none_or(is_of_epoch) {
        true => Ok(answer),
        false => Err(NotifyError::Behind),
    }
}

fn seconds(at: Micros) -> u64 {
    u64::try_from(at.get() / 1_000_000).unwrap_or(0)
}
