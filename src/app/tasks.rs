//! The tasks of the service under one supervision: which one ended by itself, and
//! whether all that must end after the stop has ended.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

use super::AppError;

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
        let id = self.running.spawn(task).id();
        self.supervised.insert(id, Supervised { name, may_end });
    }

    /// Runs a task that ends when it has nothing left to do, with the stop at the
    /// latest. A panic of it ends the service.
    pub(super) fn spawn_finite<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let may_end = true;
        let task = async move {
            task.await;
            Ok(())
        };
        let id = self.running.spawn(task).id();
        self.supervised.insert(id, Supervised { name, may_end });
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

    /// Waits, after the stop was requested, until all tasks have ended; with the
    /// first error among them. `None` if that takes longer than `limit`.
    pub(super) async fn drained(&mut self, limit: Duration) -> Option<Result<(), AppError>> {
        let all_ended = async {
            let mut outcome = Ok(());
            while let Some(ended) = self.running.join_next_with_id().await {
                outcome = outcome.and(self.outcome_of(ended).1);
            }
            outcome
        };
        tokio::time::timeout(limit, all_ended).await.ok()
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
                Err(AppError::Ended)
            },
            |(_, outcome)| outcome,
        );
        (task, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    async fn fails_within(tasks: &mut Tasks, limit: Duration) -> Option<AppError> {
        tokio::time::timeout(limit, tasks.failed()).await.ok()
    }

    #[tokio::test]
    async fn a_task_that_ends_before_the_stop_is_a_failure() {
        let mut tasks = Tasks::default();
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
        tasks.spawn("lasting", std::future::pending());
        tasks.spawn_finite("finite", async {});
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
        tasks.spawn("short", async {});
        assert!(matches!(
            fails_within(&mut tasks, LONG).await,
            Some(AppError::Ended)
        ));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_any_task() {
        let panics = || async { panic!("as the test wants it") };
        let mut tasks = Tasks::default();
        tasks.spawn("lasting", panics());
        assert!(fails_within(&mut tasks, LONG).await.is_some());
        tasks.spawn_finite("finite", panics());
        assert!(fails_within(&mut tasks, LONG).await.is_some());
        tasks.spawn_until_exit(async { panic!("as the test wants it") });
        assert!(fails_within(&mut tasks, LONG).await.is_some());
        assert!(fails_within(&mut tasks, SHORT).await.is_none());
    }

    #[tokio::test]
    async fn draining_waits_for_all_but_those_that_go_on_until_the_exit() {
        let mut tasks = Tasks::default();
        tasks.spawn_until_exit(std::future::pending());
        tasks.spawn("slow", tokio::time::sleep(SHORT));
        tasks.spawn("slower", tokio::time::sleep(2 * SHORT));
        let began = tokio::time::Instant::now();
        assert!(matches!(tasks.drained(LONG).await, Some(Ok(()))));
        assert!(began.elapsed() >= 2 * SHORT);

        tasks.spawn("never", std::future::pending());
        assert!(tasks.drained(SHORT).await.is_none());
    }

    #[tokio::test]
    async fn draining_tells_the_first_error_and_waits_for_the_others() {
        let mut tasks = Tasks::default();
        tasks.spawn_fallible("failing", async { Err(AppError::Ended) });
        tasks.spawn("slow", tokio::time::sleep(SHORT));
        let began = tokio::time::Instant::now();
        assert!(matches!(
            tasks.drained(LONG).await,
            Some(Err(AppError::Ended))
        ));
        assert!(began.elapsed() >= SHORT);
    }
}
