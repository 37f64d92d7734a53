//! The tasks of the service under one supervision: which one ended by itself, and
//! whether all that must end after the stop has ended.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::error;

use super::AppError;
use crate::shutdown::Shutdown;

/// How long the other tasks may take to end, once one has ended by itself: the
/// process is to be started anew soon, and what is not acknowledged comes again.
const FAILED_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the stop a task goes on that nothing depends on.
const LAST_BACKGROUND_TIMEOUT: Duration = Duration::from_secs(1);

/// Every task that the service runs for as long as it lives. Dropping this aborts
/// what still runs.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<Result<(), AppError>>,
    supervised: HashMap<Id, Supervised>,
    until_exit: JoinSet<Infallible>,
}

struct Supervised {
    name: &'static str,
    may_end: bool,
}

impl Tasks {
    /// Runs a task that ends because of the stop and not before. Should it end
    /// earlier, the service must not go on without it.
    pub(super) fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_fallible(name, async move {
            task.await;
            Ok(())
        });
    }

    /// As [`spawn`](Tasks::spawn), for a task that can fail for a reason of its own.
    pub(super) fn spawn_fallible<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), AppError>> + Send + 'static,
    {
        let may_end = false;
        self.supervise(Supervised { name, may_end }, task);
    }

    /// Runs a task that nothing depends on: it ends when it has nothing left to do, and
    /// is cut off a second after the stop. A panic of it is logged and ends nothing else.
    pub(super) fn spawn_background<F>(&mut self, name: &'static str, shutdown: &Shutdown, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let may_end = true;
        let shutdown = shutdown.clone();
        let task = async move {
            let cut_off = async {
                shutdown.requested().await;
                tokio::time::sleep(LAST_BACKGROUND_TIMEOUT).await;
            };
            tokio::select! {
                () = task => {}
                () = cut_off => {}
            }
            Ok(())
        };
        self.supervise(Supervised { name, may_end }, task);
    }

    fn supervise<F>(&mut self, supervised: Supervised, task: F)
    where
        F: Future<Output = Result<(), AppError>> + Send + 'static,
    {
        let id = self.running.spawn(task).id();
        self.supervised.insert(id, supervised);
    }

    /// Runs a task that goes on through the stop, until the process exits: nobody
    /// waits for it.
    pub(super) fn spawn_until_exit<F>(&mut self, task: F)
    where
        F: Future<Output = Infallible> + Send + 'static,
    {
        self.until_exit.spawn(task);
    }

    /// Returns once a task has ended that was to go on, with the error of that task
    /// or [`AppError::Ended`].
    pub(super) async fn failed(&mut self) -> AppError {
        loop {
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    let (task, ended) = self.outcome_of(ended);
                    match ended {
                        Err(error) => return error,
                        Ok(()) if task.may_end => {}
                        Ok(()) => {
                            error!(part = task.name, "a part of the service ended by itself");
                            return AppError::Ended;
                        }
                    }
                }
                Some(Err(panic)) = self.until_exit.join_next() => {
                    error!(%panic, "a part of the service panicked");
                    return AppError::Ended;
                }
                else => std::future::pending::<()>().await,
            }
        }
    }

    /// Waits, after the stop was requested, until all tasks have ended, but no longer
    /// than `limit`, and only a few seconds once one has failed, or has `already`.
    /// Returns whether all have ended, and the first failure.
    pub(super) async fn drained(
        &mut self,
        limit: Duration,
        already: Result<(), AppError>,
    ) -> (bool, Result<(), AppError>) {
        let mut outcome = already;
        let mut deadline = Instant::now() + limit;
        let mut is_failing = false;
        loop {
            if outcome.is_err() && !std::mem::replace(&mut is_failing, true) {
                deadline = deadline.min(Instant::now() + FAILED_DRAIN_TIMEOUT);
            }
            let ended = tokio::time::timeout_at(deadline, self.running.join_next_with_id());
            match ended.await {
                Ok(Some(ended)) => outcome = outcome.and(self.outcome_of(ended).1),
                Ok(None) => return (true, outcome),
                Err(_late) => return (false, outcome),
            }
        }
    }

    fn outcome_of(
        &mut self,
        ended: Result<(Id, Result<(), AppError>), JoinError>,
    ) -> (Supervised, Result<(), AppError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(panic) => panic.id(),
        };
        let task = self.supervised.remove(&id).unwrap_or(Supervised {
            name: "unknown",
            may_end: false,
        });
        let outcome = ended.map_or_else(
            |panic| {
                error!(part = task.name, %panic, "a part of the service panicked");
                match task.may_end {
                    true => Ok(()),
                    false => Err(AppError::Ended),
                }
            },
            |(_, outcome)| outcome,
        );
        (task, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    async fn fails_within(tasks: &mut Tasks, limit: Duration) -> Option<AppError> {
        tokio::time::timeout(limit, tasks.failed()).await.ok()
    }

    #[tokio::test]
    async fn a_task_that_ends_before_the_stop_is_a_failure() {
        let (_trigger, shutdown) = shutdown::channel();
        let mut tasks = Tasks::default();
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
        tasks.spawn("lasting", std::future::pending());
        tasks.spawn_background("background", &shutdown, async {});
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
        tasks.spawn("short", async {});
        let failed = fails_within(&mut tasks, LONG).await;
        assert!(matches!(failed, Some(AppError::Ended)));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_but_in_the_background() {
        let (_trigger, shutdown) = shutdown::channel();
        let mut tasks = Tasks::default();
        tasks.spawn("lasting", async { panic!("as the test wants it") });
        assert!(fails_within(&mut tasks, LONG).await.is_some());
        tasks.spawn_until_exit(async { panic!("as the test wants it") });
        assert!(fails_within(&mut tasks, LONG).await.is_some());
        tasks.spawn_background("background", &shutdown, async {
            panic!("as the test wants it")
        });
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
        assert!(matches!(tasks.drained(LONG, Ok(())).await, (true, Ok(()))));
    }

    #[tokio::test]
    async fn draining_waits_for_all_but_those_that_go_on_until_the_exit() {
        let mut tasks = Tasks::default();
        tasks.spawn_until_exit(std::future::pending());
        tasks.spawn("slow", tokio::time::sleep(SHORT));
        tasks.spawn("slower", tokio::time::sleep(2 * SHORT));
        let began = Instant::now();
        assert!(matches!(tasks.drained(LONG, Ok(())).await, (true, Ok(()))));
        assert!(began.elapsed() >= 2 * SHORT);

        tasks.spawn("never", std::future::pending());
        assert!(matches!(
            tasks.drained(SHORT, Ok(())).await,
            (false, Ok(()))
        ));
    }

    #[tokio::test]
    async fn a_failure_while_draining_is_told_and_the_others_get_a_moment_more() {
        let mut tasks = Tasks::default();
        tasks.spawn_fallible("failing", async { Err(AppError::Ended) });
        tasks.spawn("slow", tokio::time::sleep(SHORT));
        let began = Instant::now();
        let drained = tasks.drained(LONG, Ok(())).await;
        assert!(matches!(drained, (true, Err(AppError::Ended))));
        assert!(began.elapsed() >= SHORT);

        tasks.spawn("never", std::future::pending());
        let began = Instant::now();
        let drained = tasks.drained(LONG, Err(AppError::Ended)).await;
        assert!(matches!(drained, (false, Err(AppError::Ended))));
        let elapsed = began.elapsed();
        assert!(
            elapsed >= FAILED_DRAIN_TIMEOUT && elapsed < LONG,
            "{elapsed:?}"
        );
    }

    #[tokio::test]
    async fn the_stop_does_not_wait_for_the_background() {
        let (trigger, shutdown) = shutdown::channel();
        let mut tasks = Tasks::default();
        tasks.spawn_background("never", &shutdown, std::future::pending());
        trigger.request();
        assert!(matches!(tasks.drained(LONG, Ok(())).await, (true, Ok(()))));
    }
}
