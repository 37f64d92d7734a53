//! The types of senders, each once, named by a number.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::{table_slot, text};

/// Stands for the name of a sender's type.
pub(super) type TypeId = u32;

/// Every type that was ever met. A service has a handful.
#[derive(Debug, Default)]
pub(super) struct Types {
    ids: HashMap<Arc<str>, TypeId>,
    names: Vec<Arc<str>>,
    bytes: usize,
}

impl Types {
    /// Returns the number of a type, a new one if it was never met.
    pub(super) fn id(&mut self, name: &str) -> TypeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as TypeId;
        let name: Arc<str> = name.into();
        self.bytes += text(&name) + table_slot::<(Arc<str>, TypeId)>() + 2 * size_of::<Arc<str>>();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        id
    }

    /// Returns what a type is called.
    pub(super) fn name(&self, id: TypeId) -> &str {
        &self.names[id as usize]
    }

    /// Returns the bytes that all names take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
