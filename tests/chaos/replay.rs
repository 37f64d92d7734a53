//! Replays of refused events while everything breaks: one after the other, by
//! processes of their own, of which many are killed on the way, and by replicas
//! whose callers go away.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chat_counters::config::Config;
use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use chat_counters::grpc::v1::replay_dead_letters_response::Event;
use chat_counters::grpc::v1::{
    DeadLetterFilter, DeadLetterSelection, JobProgress, ListDeadLetterAuditRequest,
    ReplayDeadLettersRequest,
};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::sync::watch;

use super::inject::Record;
use super::replica::{BINARY, log_file};
use crate::kit::random::Random;
use crate::kit::service::{Result, command};

/// The reason of good events that the database refused.
const REASON: &str = "rejected_by_store";
/// Milliseconds after which a replay is ended, if it is not over: at least, and
/// less than. After one that was ended comes one with the time to outlast its
/// lease.
const SHORT_MS: (usize, usize) = (50, 2_500);
const LONG_MS: (usize, usize) = (10_000, 20_000);
/// Letters a second; 0 is no limit. Slow ones are met in the middle.
const RATES: [u32; 3] = [0, 0, 100];
/// Between two tries, where the first was refused, or had nothing to do.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Replays {
    /// Letters that they sent once more.
    pub letters: i64,
    /// Came to their end.
    pub finished: usize,
    /// By a replica, whose caller went away.
    pub left: usize,
    /// Processes killed (-9).
    pub killed: usize,
}

/// How one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// With all of its letters done.
    Finished,
    /// Finished, and there was not a letter to replay.
    Nothing,
    /// Somebody else is at the queue, or a server away: to be tried again.
    Refused,
    /// It took longer than it may.
    TooLong,
}

/// Replays, and counts what came of it.
pub(crate) struct Replayer<'r> {
    pub config: Config,
    log: PathBuf,
    /// Where each replica answers.
    replicas: Vec<watch::Receiver<String>>,
    random: Random,
    pub record: &'r Record,
    pub replays: Replays,
}

impl<'r> Replayer<'r> {
    pub(crate) fn new(
        config: Config,
        log: PathBuf,
        replicas: Vec<watch::Receiver<String>>,
        random: Random,
        record: &'r Record,
    ) -> Self {
        Self {
            config,
            log,
            replicas,
            random,
            record,
            replays: Replays::default(),
        }
    }

    /// Replays for so long.
    ///
    /// # Errors
    /// When one ends as none should.
    pub(crate) async fn keep_replaying(&mut self, length: Duration) -> Result<()> {
        let over = Instant::now() + length;
        let mut ended = Ended::Nothing;
        while Instant::now() < over {
            let is_short = self.random.one_in(2) && ended != Ended::TooLong;
            let limit = if is_short { SHORT_MS } else { LONG_MS };
            let limit = self.random.millis(limit);
            let rate = *self.random.pick(&RATES);
            ended = if self.random.one_in(3) {
                let replica = self.random.pick(&self.replicas).borrow().clone();
                self.by_replica(replica, rate, limit).await
            } else {
                self.by_process(rate, limit).await?
            };
        }
        Ok(())
    }

    /// Replays once, by a process that has time.
    ///
    /// # Errors
    /// When it ends as none should.
    pub(crate) async fn once(&mut self, patience: Duration) -> Result<()> {
        self.by_process(0, patience).await.map(drop)
    }

    /// Replays by a replica, until there is nothing to replay.
    ///
    /// # Errors
    /// When that is not so within the patience.
    pub(crate) async fn until_none(&mut self, replica: &str, patience: Duration) -> Result<()> {
        let began = Instant::now();
        while self.by_replica(replica.to_owned(), 0, patience).await != Ended::Nothing {
            if began.elapsed() > patience {
                return Err(format!("still letters to replay after {patience:?}").into());
            }
        }
        self.replays.letters = replayed(replica.to_owned()).await?;
        Ok(())
    }

    async fn by_process(&mut self, rate: u32, limit: Duration) -> Result<Ended> {
        let mut process = begin(&self.config, &self.log, rate)?;
        let ended = match tokio::time::timeout(limit, end(&mut process)).await {
            Ok(ended) => ended.map_err(|error| format!("{error}; see {}", self.log.display()))?,
            Err(_) => {
                process.kill().await?;
                self.replays.killed += 1;
                Ended::TooLong
            }
        };
        self.note("by a process", rate, limit, ended).await;
        Ok(ended)
    }

    async fn by_replica(&mut self, url: String, rate: u32, limit: Duration) -> Ended {
        let ended = match tokio::time::timeout(limit, ask(url, rate)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                self.record.note(&format!("replay by a replica: {error}"));
                Ended::Refused
            }
            Err(_) => {
                self.replays.left += 1;
                Ended::TooLong
            }
        };
        self.note("by a replica", rate, limit, ended).await;
        ended
    }

    async fn note(&mut self, how: &str, rate: u32, limit: Duration, ended: Ended) {
        self.record
            .note(&format!("replay {how}, {rate}/s, {limit:?}: {ended:?}"));
        match ended {
            Ended::Finished => self.replays.finished += 1,
            Ended::Refused | Ended::Nothing => tokio::time::sleep(PAUSE).await,
            Ended::TooLong => {}
        }
    }
}

fn begin(config: &Config, log: &Path, rate: u32) -> Result<Child> {
    Ok(command(Path::new(BINARY), config)
        .args(["dlq", "--direct", "--output", "json"])
        .args(["replay", "--why", REASON, "--rate", &rate.to_string()])
        .stdout(Stdio::piped())
        .stderr(log_file(log)?)
        .spawn()?)
}

/// Waits for the end of a process, and reads what it says.
async fn end(process: &mut Child) -> Result<Ended> {
    let mut said = String::new();
    if let Some(stdout) = &mut process.stdout {
        stdout.read_to_string(&mut said).await?;
    }
    let status = process.wait().await?;
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    match status.code() {
        Some(0 | 1) if said["finished"] == true => {
            Ok(finished(said["selected"] == 0 && said["resumed"] == false))
        }
        Some(1 | 3) => Ok(Ended::Refused),
        _ => Err(format!("a replay ended with {status}").into()),
    }
}

/// A job that went on with the letters of an earlier one says nothing about
/// those that have come since.
fn finished(nothing_new: bool) -> Ended {
    match nothing_new {
        true => Ended::Nothing,
        false => Ended::Finished,
    }
}

/// Asks a replica for a replay, and listens until it is over.
async fn ask(url: String, rate: u32) -> Result<Ended> {
    let mut client = DeadLetterServiceClient::connect(url).await?;
    let filter = DeadLetterFilter {
        reasons: vec![REASON.into()],
        ..Default::default()
    };
    let request = ReplayDeadLettersRequest {
        selection: Some(DeadLetterSelection {
            filter: Some(filter),
            actor: "chaos".into(),
            ..Default::default()
        }),
        rate,
        ..Default::default()
    };
    let mut told = client.replay_dead_letters(request).await?.into_inner();
    let mut last = JobProgress::default();
    while let Some(told) = told.message().await? {
        if let Some(Event::Progress(progress)) = told.event {
            last = progress;
        }
    }
    match last.finished {
        true => Ok(finished(last.selected == 0 && !last.resumed)),
        false => Ok(Ended::Refused),
    }
}

/// How many letters all replays have sent, as the audit has it.
async fn replayed(url: String) -> Result<i64> {
    let mut client = DeadLetterServiceClient::connect(url).await?;
    let mut request = ListDeadLetterAuditRequest::default();
    let mut done = 0;
    loop {
        let audit = client.list_dead_letter_audit(request).await?.into_inner();
        done += audit.jobs.iter().map(|job| job.done).sum::<i64>();
        if audit.next_page_token.is_empty() {
            return Ok(done);
        }
        request = ListDeadLetterAuditRequest {
            page_token: audit.next_page_token,
            ..Default::default()
        };
    }
}
