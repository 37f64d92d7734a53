//! What an interrupted `verify --resume FILE` leaves for the next one.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::{ExitCode, Failure};
use crate::derive::state::DialogKey;
use crate::event::{DialogId, TenantId};
use crate::maintenance::sweep::SweepTally;

/// The content of the file: the last dialog that was verified, and what was
/// found up to it.
#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    tenant: String,
    dialog: String,
    #[serde(flatten)]
    tally: SweepTally,
}

/// Reads the dialog after which to go on, and what was found up to it; `None`
/// when there is no file.
pub(super) fn load(path: &Path) -> Result<Option<(DialogKey, SweepTally)>, Failure> {
    let refuse = |why: String| {
        let message = format!("--resume {}: {why}", path.display());
        Failure::new(ExitCode::Usage, message)
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let unusable = |error: String| refuse(format!("not the progress of a run: {error}"));
    let checkpoint: Checkpoint =
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let after = DialogKey {
        tenant: TenantId::new(&checkpoint.tenant).map_err(|e| unusable(e.to_string()))?,
        dialog: DialogId::new(&checkpoint.dialog).map_err(|e| unusable(e.to_string()))?,
    };
    Ok(Some((after, checkpoint.tally)))
}

/// Writes how far the run is. There is never half a file, whenever the process
/// ends.
pub(super) fn save(path: &Path, key: &DialogKey, tally: SweepTally) -> Result<(), Failure> {
    let checkpoint = Checkpoint {
        tenant: key.tenant.to_string(),
        dialog: key.dialog.to_string(),
        tally,
    };
    let text = serde_json::to_string(&checkpoint).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(&new, path)?)
}

/// Removes the file once there is nothing to go on with.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_what_earlier_versions_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verify.json");
        assert!(load(&path).unwrap().is_none());
        let text = r#"{"tenant":"t","dialog":"d","dialogs":3,"messages":9,"differing_dialogs":1,"differences":2,"repaired":0}"#;
        std::fs::write(&path, text).unwrap();
        let (after, tally) = load(&path).unwrap().unwrap();
        assert_eq!(
            (tally.dialogs, tally.messages, tally.differences),
            (3, 9, 2)
        );
        save(&path, &after, tally).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(load(&path).unwrap().is_none());
    }
}
