//! How far a command is, for the person at the terminal.

use std::fmt;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A bar after this template, in which `rate` is whole steps a second. It is
/// invisible unless stderr is a terminal.
pub(super) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(5));
    let rate = |state: &ProgressState, to: &mut dyn fmt::Write| {
        // An error would be that of a terminal that is gone.
        let _ = write!(to, "{:.0}/s", state.per_sec());
    };
    // Templates are constant: an error would leave the default style.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}
