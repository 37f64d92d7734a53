//! Property tests that try a few cases in every run of the suite, and go on
//! for as long as they are asked to in `make torture`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

/// Smaller and smaller variants of a failing case that are tried. Those of the
/// tests on a real database take a while.
const SHRINKS: u32 = 2_000;

/// How a property is tried.
pub(crate) struct Torture {
    /// What a case is, in the plural.
    pub what: &'static str,
    /// Where failing seeds are kept, to be tried first in every later run.
    pub regressions: &'static str,
    /// Cases in a run of the suite, unless `PROPTEST_CASES` says otherwise.
    pub cases: u32,
}

impl Torture {
    /// Tries the property: a number of cases, or fresh ones for
    /// `TORTURE_SECONDS`.
    ///
    /// # Panics
    /// With the smallest case found for which `test` panics.
    pub(crate) fn run<S: Strategy>(&self, strategy: &S, test: impl Fn(S::Value)) {
        let cases = variable("PROPTEST_CASES").unwrap_or(self.cases);
        let Some(seconds) = variable("TORTURE_SECONDS") else {
            return self.round(cases, strategy, test);
        };
        let (started, limit) = (Instant::now(), Duration::from_secs(seconds.into()));
        let tried = AtomicU64::new(0);
        while started.elapsed() < limit {
            self.round(self.cases, strategy, |case| {
                if started.elapsed() < limit {
                    test(case);
                    tried.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let seconds = started.elapsed().as_secs();
        println!(
            "torture: {} {} tried in {seconds} s, no difference",
            tried.into_inner(),
            self.what
        );
    }

    fn round<S: Strategy>(&self, cases: u32, strategy: &S, test: impl Fn(S::Value)) {
        let mut runner = TestRunner::new(Config {
            cases,
            max_shrink_iters: SHRINKS,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(self.regressions))),
            ..Config::default()
        });
        let tried = runner.run(strategy, |case| {
            test(case);
            Ok(())
        });
        if let Err(failed) = tried {
            panic!("{}: {failed}", self.what);
        }
    }
}

fn variable(name: &str) -> Option<u32> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}: expected a number, found {value:?}")))
}
