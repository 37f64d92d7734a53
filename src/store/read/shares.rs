//! Everything about users and dialogs that is to be kept in memory, and as of
//! when it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::rows::{DialogRow, MembershipRow};
use super::snapshot::{DIALOG_ROW, ShareScan, TenantSnapshot};
use super::{ReadError, Reader};
use crate::event::{DialogId, TenantId, UserId};
use crate::store::StoreError;
use crate::store::commit_log::Position;

/// All shares of users, and the dialogs that they are of, as of one moment.
#[derive(Debug)]
pub struct Shares {
    /// Which commits are in it.
    pub position: Position,
    /// Each user that was asked for, with all their shares.
    pub users: BTreeMap<UserId, Vec<MembershipRow>>,
    /// Each dialog that was asked for or has a share; nothing but zeros where
    /// there is no document.
    pub dialogs: HashMap<DialogId, DialogRow>,
}

impl Reader {
    /// All shares of some users, the dialogs that they are of, and further
    /// dialogs. `None` when those are more than `most` documents. Calls `going_on`
    /// each time that something was read.
    ///
    /// To be run to its end, as [`Reader::ask`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn shares(
        &self,
        tenant: &TenantId,
        users: &[UserId],
        dialogs: &[DialogId],
        most: usize,
        (deadline, going_on): (Instant, &(impl Fn() + Sync)),
    ) -> Result<Option<Shares>, ReadError> {
        let mut snapshot = TenantSnapshot::open(&self.store, tenant, deadline).await?;
        let position = snapshot.position().await?;
        let named = users.iter().map(|user| (user.clone(), Vec::new()));
        let mut shares = Shares {
            position,
            users: named.collect(),
            dialogs: HashMap::new(),
        };
        shares
            .add_dialogs(tenant, dialogs.iter(), &mut snapshot)
            .await?;
        let mut scan = ShareScan::new(users.iter().cloned());
        let mut found = 0;
        loop {
            let rows = scan.next(tenant, &mut snapshot).await?;
            going_on();
            if rows.is_empty() {
                return Ok(Some(shares));
            }
            let of = rows.iter().map(|row| &row.dialog);
            shares.add_dialogs(tenant, of, &mut snapshot).await?;
            found += rows.len();
            if found + shares.dialogs.len() > most {
                return Ok(None);
            }
            for row in rows {
                shares.users.entry(row.user.clone()).or_default().push(row);
            }
        }
    }
}

impl Shares {
    async fn add_dialogs(
        &mut self,
        tenant: &TenantId,
        dialogs: impl Iterator<Item = &DialogId>,
        snapshot: &mut TenantSnapshot,
    ) -> Result<(), ReadError> {
        let new = dialogs.filter(|dialog| !self.dialogs.contains_key(*dialog));
        let new: BTreeSet<DialogId> = new.cloned().collect();
        let mut rows = snapshot.dialogs(tenant, new.iter(), DIALOG_ROW).await?;
        for dialog in new {
            let row = rows.remove(&dialog).unwrap_or_default();
            self.dialogs.insert(dialog, row);
        }
        Ok(())
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Driver(error) => error.into(),
            other => Self::Position(other),
        }
    }
}
