//! The questions that memory answers.

use super::model::{LoadKeys, Model};
use crate::store::read::{
    AsOfCut, ChangedUsers, Dialogs, DialogsInOrder, DialogsOfUser, Query, UserInDialog, Users,
    WithCut,
};

/// A question that can be answered from memory, once all that it is about is
/// there.
pub trait MemoryQuery: Query {
    /// Whether the store answers from a few documents, however much the user
    /// has: then it is not worth a load to be asked once.
    const IS_CHEAP_IN_STORE: bool = false;

    /// The answer, as of the model's cut.
    ///
    /// # Errors
    /// What is not in memory and is needed.
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys>;
}

impl MemoryQuery for Users {
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        let mut wanted = LoadKeys::default();
        let mut answer = Vec::with_capacity(self.users.len());
        for user in &self.users {
            match model.user(&self.tenant, user) {
                Some(stats) => answer.push(stats),
                None => wanted.users.push(user.clone()),
            }
        }
        wanted.or(answer)
    }
}

impl MemoryQuery for UserInDialog {
    const IS_CHEAP_IN_STORE: bool = true;

    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        let Self {
            tenant,
            user,
            dialog,
        } = self;
        model
            .user_in_dialog(tenant, user, dialog)
            .ok_or_else(|| LoadKeys {
                users: match model.user(tenant, user) {
                    Some(_) => Vec::new(),
                    None => vec![user.clone()],
                },
                dialogs: vec![dialog.clone()],
            })
    }
}

impl MemoryQuery for DialogsOfUser {
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        model.dialogs_of_user(self).ok_or_else(|| LoadKeys {
            users: vec![self.user.clone()],
            ..LoadKeys::default()
        })
    }
}

impl MemoryQuery for DialogsInOrder {
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        model.dialogs_in_order(self).ok_or_else(|| LoadKeys {
            users: vec![self.user.clone()],
            ..LoadKeys::default()
        })
    }
}

impl<Q: MemoryQuery> MemoryQuery for WithCut<Q> {
    const IS_CHEAP_IN_STORE: bool = Q::IS_CHEAP_IN_STORE;

    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        let answer = self.0.answer_from(model)?;
        let as_of = AsOfCut {
            cut: model.cut().clone(),
            epoch: None,
        };
        Ok((as_of, answer))
    }
}

impl MemoryQuery for ChangedUsers {
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        let mut wanted = LoadKeys::default();
        let mut answer = Vec::with_capacity(self.users.len());
        for (user, dialogs) in &self.users {
            let Some(stats) = model.user(&self.tenant, user) else {
                wanted.users.push(user.clone());
                continue;
            };
            let mut in_dialogs = Vec::with_capacity(dialogs.len());
            for dialog in dialogs {
                match model.user_in_dialog(&self.tenant, user, dialog) {
                    Some(stats) => in_dialogs.push(stats),
                    None => wanted.dialogs.push(dialog.clone()),
                }
            }
            answer.push((stats, in_dialogs));
        }
        wanted.or(answer)
    }
}

impl MemoryQuery for Dialogs {
    fn answer_from(&self, model: &mut Model) -> Result<Self::Answer, LoadKeys> {
        let mut wanted = LoadKeys::default();
        let mut answer = Vec::with_capacity(self.dialogs.len());
        for dialog in &self.dialogs {
            match model.dialog(&self.tenant, dialog) {
                Some(stats) => answer.push(stats),
                None => wanted.dialogs.push(dialog.clone()),
            }
        }
        wanted.or(answer)
    }
}

impl LoadKeys {
    /// The answer, if nothing more is needed for it.
    fn or<A>(self, answer: A) -> Result<A, Self> {
        match self.users.is_empty() && self.dialogs.is_empty() {
            true => Ok(answer),
            false => Err(self),
        }
    }
}
