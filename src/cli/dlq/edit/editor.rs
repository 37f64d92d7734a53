//! A text in the editor of whoever is at the terminal.

use std::io::{self, Write as _};

use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::shutdown;

/// The editor where neither VISUAL nor EDITOR names one.
const DEFAULT_EDITOR: &str = "vi";

#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum EditorError {
    #[error(
        "cannot hand the body to an editor by a temporary file ({0}): set TMPDIR, or use --set or --file"
    )]
    File(#[from] io::Error),
    #[error(
        "the editor {editor:?} ({ended}) was left with a failure: nothing was changed; another one is set by EDITOR"
    )]
    Failed { editor: String, ended: String },
}

/// Opens a text and returns it as it was saved. The file is readable by its
/// owner alone, and is gone afterwards.
///
/// # Errors
/// When there is no place for the file, or when the editor says that it failed.
pub(in crate::cli) async fn open(text: &[u8], name: &str) -> Result<Vec<u8>, EditorError> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .find(|editor| !editor.trim().is_empty())
        .unwrap_or_else(|| DEFAULT_EDITOR.to_owned());
    let mut file = handed_over(text, name)?;
    file.flush()?;
    // Ctrl-C is for the editor: ending here would leave the file behind.
    let _handled = shutdown::signal()?;
    let ended = Command::new("sh")
        .arg("-c")
        // As a shell reads it, so that it may have arguments.
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file.path())
        .status()
        .await?;
    if !ended.success() {
        let ended = ended.to_string();
        return Err(EditorError::Failed { editor, ended });
    }
    // By its name: many editors save by a new file in place of the old one.
    Ok(tokio::fs::read(file.path()).await?)
}

fn handed_over(text: &[u8], name: &str) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(&format!("dead-letter-{name}-"))
        .suffix(".json")
        .tempfile()?;
    file.write_all(text)?;
    Ok(file)
}
