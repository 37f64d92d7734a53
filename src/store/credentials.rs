//! Taking up secrets and certificates that were rotated, and logging in anew.

use std::sync::PoisonError;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::error::{Error, ErrorKind};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Handles, Store, StoreError, access};
use crate::config;
use crate::retry::FailureStreak;
use crate::shutdown::Shutdown;

/// Between two looks at the files. Their contents are compared: those of a
/// mounted secret change by links that no watcher of files is told of.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two attempts to log in anew, at least.
const LOGIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What there is to follow.
struct Followed {
    /// What the present client was made of.
    fingerprint: access::Fingerprint,
    /// Whether any of it is in a file, and may change.
    has_files: bool,
    /// Attempts in a row that failed: each cause is logged once.
    failures: FailureStreak,
}

impl Store {
    /// Looks at the files of the configuration until the shutdown. Once they say
    /// something else, and MongoDB takes it, all clones go on with that. So they
    /// do with what is there, once connections turn out to be
    /// [logged out](Store::heed).
    pub async fn keep_credentials_current(self, config: config::Store, shutdown: Shutdown) {
        let mut followed = Followed {
            fingerprint: self.made_of,
            has_files: true,
            failures: FailureStreak::default(),
        };
        loop {
            let logged_out = tokio::select! {
                () = sleep(FILE_CHECK_INTERVAL), if followed.has_files => false,
                () = self.logged_out.notified() => true,
                () = shutdown.requested() => return,
            };
            match self.renew(&config, &mut followed, logged_out).await {
                Ok(()) => drop(followed.failures.end()),
                Err(error) => followed.complain(&error),
            }
            if logged_out {
                tokio::select! {
                    () = sleep(LOGIN_RETRY_INTERVAL) => {}
                    () = shutdown.requested() => return,
                }
            }
        }
    }

    /// Takes note of an error that says that the connection it came over is
    /// logged out. MongoDB does that to all connections of a user who is dropped,
    /// and created again or not; the driver keeps them, and would go on to ask
    /// over them for ever.
    pub(crate) fn heed(&self, error: Option<&Error>) {
        const UNAUTHORIZED: i32 = 13;
        // The same code without these words is a right that the user lacks.
        let is_logged_out = |error: &&Error| {
            matches!(error.kind.as_ref(), ErrorKind::Command(refused)
            if refused.code == UNAUTHORIZED && refused.message.contains("requires authentication"))
        };
        if error.is_some_and(|error| is_logged_out(&error)) {
            self.logged_out.notify_one();
        }
    }

    /// Goes on with another client if the files say something else, or if this
    /// one's connections are logged out.
    async fn renew(
        &self,
        config: &config::Store,
        followed: &mut Followed,
        logged_out: bool,
    ) -> Result<(), StoreError> {
        let access = access::read(config).await?;
        followed.has_files = access.has_files;
        let has_changed = access.fingerprint != followed.fingerprint;
        if !has_changed && !logged_out {
            return Ok(());
        }
        let handles = Handles::new(access.options, config)?;
        // Whoever is not let in does not get even this answered.
        let ping = handles.database.run_command(doc! { "ping": 1 }).await;
        if let Err(error) = ping {
            handles.client.shutdown().await;
            return Err(error.into());
        }
        // The client before ends with the last session that goes through it.
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = handles;
        followed.fingerprint = access.fingerprint;
        match has_changed {
            true => info!("the store's secrets or certificates have changed: taken up"),
            false => info!("the store had logged the service out: logged in anew"),
        }
        Ok(())
    }
}

impl Followed {
    /// Says once what is of no use.
    fn complain(&mut self, error: &StoreError) {
        if self.failures.is_new_cause(&error.to_string()) {
            warn!(%error, "the store's secrets or certificates have changed, and are of no use: the ones before stay");
        }
    }
}
