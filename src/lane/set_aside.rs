//! What is set aside: events that need a long look back, or that fail again and
//! again. Others must not wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::derive::state::{DialogKey, MessageKey, UserKey};
use crate::event::{Event, Fact};

/// How long all events of a place are set aside after one of them has failed by
/// itself: more of its kind would make a whole batch fail each time.
const FAILING_PLACE_TIME: Duration = Duration::from_secs(60);
/// The most failing places that are remembered. Beyond them a lane finds out
/// anew.
const MAX_FAILING_PLACES: usize = 1_000;

/// Which places have events with a patient lane. While there are any, all of a
/// place's events go there, so that two lanes do not fight over it.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    /// How many events of each place are set aside.
    events: HashMap<Place, usize>,
    /// Until when all events of a place that failed are set aside.
    failing: HashMap<Place, Instant>,
}

/// What events are about that change the same documents: the dialog that the
/// producer named, or the message where none was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
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
    place: Place,
}

impl Aside {
    /// Whether events of the event's place are set aside.
    pub(super) fn has(&self, event: &Event) -> bool {
        let places = self.lock();
        // Mostly there are none, and no key is to be made.
        if places.events.is_empty() && places.failing.is_empty() {
            return false;
        }
        let Some(place) = place(event) else {
            return false;
        };
        let until = places.failing.get(&place);
        places.events.contains_key(&place) || until.is_some_and(|until| *until > Instant::now())
    }

    /// Sets an event aside. `None` for one that is about nothing in particular.
    pub(super) fn set(&self, event: &Event) -> Option<SetAside> {
        let place = place(event)?;
        *self.lock().events.entry(place.clone()).or_default() += 1;
        Some(SetAside {
            aside: self.clone(),
            place,
        })
    }

    /// The event has failed by itself: its place is set aside for a while.
    pub(super) fn failed(&self, event: &Event) {
        let Some(place) = place(event) else {
            return;
        };
        let mut places = self.lock();
        let (failing, now) = (&mut places.failing, Instant::now());
        if failing.len() >= MAX_FAILING_PLACES {
            failing.retain(|_, until| *until > now);
        }
        if failing.len() < MAX_FAILING_PLACES || failing.contains_key(&place) {
            failing.insert(place, now + FAILING_PLACE_TIME);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let mut places = self.aside.lock();
        if let Some(events) = places.events.get_mut(&self.place) {
            *events -= 1;
            if *events == 0 {
                places.events.remove(&self.place);
            }
        }
    }
}

fn place(event: &Event) -> Option<Place> {
    let tenant = || event.tenant.clone();
    if let Some(dialog) = dialog(event) {
        return Some(Place::Dialog(dialog));
    }
    match &event.fact {
        Fact::UserTyped { user, .. } => Some(Place::User(UserKey {
            tenant: tenant(),
            user: user.clone(),
        })),
        Fact::MessageDeleted { message }
        | Fact::StatusReached { message, .. }
        | Fact::ReactionChanged { message, .. } => Some(Place::Message(MessageKey {
            tenant: tenant(),
            message: message.clone(),
        })),
        _ => None,
    }
}

/// The dialog that the producer named.
pub(super) fn dialog(event: &Event) -> Option<DialogKey> {
    Some(DialogKey {
        tenant: event.tenant.clone(),
        dialog: event.dialog_hint.clone()?,
    })
}
