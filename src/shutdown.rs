//! One signal to stop, seen by every part of the service.

use tokio::sync::watch;

/// Asks everyone that holds the matching [`Shutdown`] to stop.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Tells whether, and waits until, the service is to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and its listener.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Requests the stop. Calling it again changes nothing.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether the stop was requested.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the stop was requested, also when that was long ago. A
    /// trigger that is gone without a request counts as one.
    pub async fn requested(&self) {
        // An error says that the trigger is gone: nothing else can ever ask.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }
}

/// Installs handlers for SIGTERM and SIGINT; the future ends with the name of
/// the first that the process receives.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signal() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
