//! One signal to stop, seen by every part of the service, and the word before
//! it that a stop is near.

use tokio::sync::watch;

/// How near the end of the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Nothing has asked for a stop.
    Running,
    /// Nothing is to be sent here any more; what comes is answered.
    Leaving,
    /// What is under way ends, and nothing is begun.
    Stopping,
}

/// Asks everyone that holds the matching [`Shutdown`] to stop.
#[derive(Debug, Clone)]
pub struct Trigger(watch::Sender<Phase>);

/// Tells whether, and waits until, the service is to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

/// Makes a trigger and a listener that hears it.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Says that a stop is near.
    pub fn leave(&self) {
        self.0
            .send_modify(|phase| *phase = (*phase).max(Phase::Leaving));
    }

    /// Requests the stop. Calling it again changes nothing.
    pub fn request(&self) {
        self.0.send_replace(Phase::Stopping);
    }
}

impl Shutdown {
    /// Tells whether the stop was requested.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() == Phase::Stopping
    }

    /// Tells whether a stop is near, or was requested.
    pub fn is_leaving(&self) -> bool {
        *self.0.borrow() != Phase::Running
    }

    /// Returns once the stop was requested, also when that was long ago. A
    /// trigger that is gone without a request counts as one.
    pub async fn requested(&self) {
        self.reached(Phase::Stopping).await;
    }

    /// Returns once a stop is near, also when that was long ago.
    pub async fn leaving(&self) {
        self.reached(Phase::Leaving).await;
    }

    async fn reached(&self, wanted: Phase) {
        // An error says that the trigger is gone: nothing else can ever ask.
        let _ = self.0.clone().wait_for(|phase| *phase >= wanted).await;
    }
}

/// The signals that ask a process to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Handles the signals from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name: `SIGTERM`, from whatever
    /// runs the process, or `SIGINT`, from a person.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Installs handlers for SIGTERM and SIGINT; the future ends with the name of
/// the first that the process receives.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signal() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut signals = Signals::install()?;
    Ok(async move { signals.next().await })
}
