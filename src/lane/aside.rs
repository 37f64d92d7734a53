//! Dialogs whose events are set aside: some of them need a long look back, and
//! others must not wait for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::derive::state::DialogKey;
use crate::event::Event;

/// Which dialogs have events with a patient lane. While there are any, all of a
/// dialog's events go there, so that two lanes do not fight over it.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Arc<Mutex<HashMap<DialogKey, usize>>>);

/// An event that was set aside; when it is dropped, it no longer is.
#[derive(Debug)]
pub struct SetAside {
    aside: Aside,
    dialog: DialogKey,
}

impl Aside {
    /// Whether events of the event's dialog are set aside.
    pub(super) fn has(&self, event: &Event) -> bool {
        let dialogs = self.lock();
        // Mostly there are none, and no key is to be made.
        !dialogs.is_empty() && dialog(event).is_some_and(|dialog| dialogs.contains_key(&dialog))
    }

    /// Sets an event aside. `None` for one that names no dialog.
    pub(super) fn set(&self, event: &Event) -> Option<SetAside> {
        let dialog = dialog(event)?;
        *self.lock().entry(dialog.clone()).or_default() += 1;
        Some(SetAside {
            aside: self.clone(),
            dialog,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DialogKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let mut dialogs = self.aside.lock();
        if let Some(events) = dialogs.get_mut(&self.dialog) {
            *events -= 1;
            if *events == 0 {
                dialogs.remove(&self.dialog);
            }
        }
    }
}

/// The dialog that the producer named.
pub(super) fn dialog(event: &Event) -> Option<DialogKey> {
    Some(DialogKey {
        tenant: event.tenant.clone(),
        dialog: event.dialog_hint.clone()?,
    })
}
