//! What is set aside: events that need a long look back, or that fail again and
//! again. Others must not wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::derive::state::{DialogKey, MessageKey, UserKey};
use crate::event::{Event, Fact};

/// How long all events about a subject are set aside after one of them has failed by
/// itself: more of its kind would make a whole batch fail each time.
const FAILING_SUBJECT_TIME: Duration = Duration::from_secs(60);
/// The most failing subjects that are remembered. Beyond them a lane finds out
/// anew.
const MAX_FAILING_SUBJECTS: usize = 1_000;

/// The subjects that have events with a patient lane. While there are any, all events
/// about the subject go there, so that two lanes do not fight over it.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Arc<Mutex<SubjectsAside>>);

#[derive(Debug, Default)]
struct SubjectsAside {
    /// How many events about each subject are set aside.
    events: HashMap<EventSubject, usize>,
    /// The time until which all events about a subject are set aside, since one of them has
    /// failed.
    failing: HashMap<EventSubject, Instant>,
}

/// What an event is about. Events with the same subject change the same documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum EventSubject {
    /// The dialog that the producer named.
    Dialog(DialogKey),
    /// The message, of an event that names no dialog.
    Message(MessageKey),
    /// The user, of an event that states a type.
    User(UserKey),
}

/// An event that was set aside; when it is dropped, it no longer is.
#[derive(Debug)]
pub(crate) struct SetAside {
    aside: Aside,
    subject: EventSubject,
}

impl Aside {
    /// Returns whether events about the event's subject are set aside.
    pub(super) fn has(&self, event: &Event) -> bool {
        let subjects = self.lock();
        // Mostly there are none, and no key is to be made.
        if subjects.events.is_empty() && subjects.failing.is_empty() {
            return false;
        }
        let Some(subject) = subject(event) else {
            return false;
        };
        let until = subjects.failing.get(&subject);
        subjects.events.contains_key(&subject) || until.is_some_and(|until| *until > Instant::now())
    }

    /// Sets an event aside. Returns `None` for one that has no subject, which is not.
    pub(super) fn set(&self, event: &Event) -> Option<SetAside> {
        let subject = subject(event)?;
        *self.lock().events.entry(subject.clone()).or_default() += 1;
        Some(SetAside {
            aside: self.clone(),
            subject,
        })
    }

    /// Notes that the event has failed by itself: all events about its subject are set aside
    /// for a while.
    pub(super) fn failed(&self, event: &Event) {
        let Some(subject) = subject(event) else {
            return;
        };
        let mut subjects = self.lock();
        let (failing, now) = (&mut subjects.failing, Instant::now());
        if failing.len() >= MAX_FAILING_SUBJECTS {
            failing.retain(|_, until| *until > now);
        }
        if failing.len() < MAX_FAILING_SUBJECTS || failing.contains_key(&subject) {
            failing.insert(subject, now + FAILING_SUBJECT_TIME);
        }
    }

    fn lock(&self) -> MutexGuard<'_, SubjectsAside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let mut subjects = self.aside.lock();
        if let Some(events) = subjects.events.get_mut(&self.subject) {
            *events -= 1;
            if *events == 0 {
                subjects.events.remove(&self.subject);
            }
        }
    }
}

/// Returns what the event is about: the dialog that the producer named, else its message,
/// or the user whose type it states.
fn subject(event: &Event) -> Option<EventSubject> {
    let tenant = || event.tenant.clone();
    if let Some(dialog) = dialog(event) {
        return Some(EventSubject::Dialog(dialog));
    }
    match &event.fact {
        Fact::UserTyped { user, .. } => Some(EventSubject::User(UserKey {
            tenant: tenant(),
            user: user.clone(),
        })),
        Fact::MessageDeleted { message }
        | Fact::StatusReached { message, .. }
        | Fact::ReactionChanged { message, .. } => Some(EventSubject::Message(MessageKey {
            tenant: tenant(),
            message: message.clone(),
        })),
        _ => None,
    }
}

/// Returns the dialog that the producer named.
pub(super) fn dialog(event: &Event) -> Option<DialogKey> {
    Some(DialogKey {
        tenant: event.tenant.clone(),
        dialog: event.dialog_hint.clone()?,
    })
}
