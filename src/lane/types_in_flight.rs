//! Types of users that were learnt but are not committed yet.
//!
//! `user.*` events are committed by one lane, messages by others. A message
//! that arrives after the event that states its sender's type must not miss it
//! only because its own lane was faster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::derive::state::UserKey;
use crate::event::{Event, Fact, SenderType, Stamp};

/// The users' types that events in flight state. The pipeline adds to it, lanes
/// take from it; the prefetch bounds what it holds.
#[derive(Debug, Clone, Default)]
pub struct TypesInFlight(Arc<Mutex<HashMap<UserKey, (Stamp, SenderType)>>>);

impl TypesInFlight {
    /// Notes the type that an event states. To be called with every event, in
    /// order of arrival, before any lane has it.
    pub fn arrived(&self, event: &Event) {
        if let Some((key, user_type)) = typed(event) {
            let mut types = self.lock();
            let latest = types
                .get(&key)
                .is_some_and(|(stamp, _)| *stamp > event.stamp);
            if !latest {
                types.insert(key, (event.stamp.clone(), user_type));
            }
        }
    }

    /// Forgets the type that an event states. To be called once it is
    /// committed, or given up.
    pub fn settled(&self, event: &Event) {
        if let Some((key, _)) = typed(event) {
            let mut types = self.lock();
            if types
                .get(&key)
                .is_some_and(|(stamp, _)| *stamp == event.stamp)
            {
                types.remove(&key);
            }
        }
    }

    /// Returns the type of a user according to an event in flight.
    pub fn get(&self, key: &UserKey) -> Option<SenderType> {
        self.lock().get(key).map(|(_, user_type)| user_type.clone())
    }

    /// A panic elsewhere leaves the map whole: every change is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<UserKey, (Stamp, SenderType)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn typed(event: &Event) -> Option<(UserKey, SenderType)> {
    match &event.fact {
        Fact::UserTyped { user, user_type } => {
            let key = UserKey {
                tenant: event.tenant.clone(),
                user: user.clone(),
            };
            Some((key, user_type.clone()))
        }
        _ => None,
    }
}
