//! Taking up secrets and certificates that were rotated.

use std::sync::PoisonError;
use std::time::Duration;

use mongodb::bson::doc;
use tracing::{info, warn};

use super::{Handles, Store, StoreError, access};
use crate::config;
use crate::shutdown::Shutdown;

/// Between two looks at the files. Their contents are compared: those of a
/// mounted secret change by links that no watcher of files is told of.
const INTERVAL: Duration = Duration::from_secs(5);

impl Store {
    /// Looks at the files of the configuration until the shutdown. Once they say
    /// something else, and MongoDB takes it, all clones go on with that.
    pub async fn follow_files(self, config: config::Store, shutdown: Shutdown) {
        let mut current = self.made_of;
        let mut said = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.requested() => return,
            }
            match self.renew(&config, current).await {
                Ok(None) => return,
                Ok(Some(found)) if found == current => {}
                Ok(Some(found)) => {
                    current = found;
                    said.clear();
                    info!("the store's secrets or certificates have changed: taken up");
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        warn!(%error, "the store's secrets or certificates have changed, and are of no use: the ones before stay");
                        said = text;
                    }
                }
            }
        }
    }

    /// What the store is made of now; `None` when none of it is in files.
    async fn renew(
        &self,
        config: &config::Store,
        current: access::Fingerprint,
    ) -> Result<Option<access::Fingerprint>, StoreError> {
        let access = access::read(config).await?;
        if !access.has_files {
            return Ok(None);
        }
        if access.fingerprint != current {
            let handles = Handles::new(access.options, config)?;
            // Whoever is not let in does not get even this answered.
            let ping = handles.database.run_command(doc! { "ping": 1 }).await;
            if let Err(error) = ping {
                handles.client.shutdown().await;
                return Err(error.into());
            }
            // The client before ends with the last session that goes through it.
            *self.present.write().unwrap_or_else(PoisonError::into_inner) = handles;
        }
        Ok(Some(access.fingerprint))
    }
}
