//! The way to the dead letters: a running service, or none needed.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::auth::Identity;
use crate::bus::Flow;
use crate::cli::admin::Executor;
use crate::cli::remote::{Connection, work_refused};
use crate::cli::{Failure, operator};
use crate::config::Config;
use crate::grpc::DeadLetters;
use crate::grpc::v1::{
    self, dead_letter_service_client::DeadLetterServiceClient,
    dead_letter_service_server::DeadLetterService as _,
};
use crate::redrive::Redrive;
use crate::store::Store;

/// The largest answer in bytes: it may have a thousand letters, or one with its
/// body.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long a job that is not listened to any more may take to end in order.
const JOB_END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const JOB_END_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The answers of a job as they come.
pub(super) type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Failure>> + Send>>;

/// Calls `DeadLetterService`, in a running service or in this process.
pub(super) struct DeadLetterClient {
    backend: Backend,
    address: String,
}

enum Backend {
    Service(DeadLetterServiceClient<Connection>),
    /// The service's own code, in this process, on the servers themselves.
    Servers(Box<DeadLetters>, Store),
}

/// A method of the service, whoever answers.
macro_rules! method {
    ($name:ident($request:ty) -> $answer:ty) => {
        pub(super) async fn $name(&mut self, request: $request) -> Result<$answer, Failure> {
            let answer = match &mut self.backend {
                Backend::Service(client) => client.$name(request).await,
                Backend::Servers(letters, _) => letters.$name(by_operator(request)).await,
            };
            let answer = answer.map(Response::into_inner);
            answer.map_err(|status| work_refused(&self.address, &status))
        }
    };
    ($name:ident($request:ty) -> stream $answer:ty) => {
        pub(super) async fn $name(
            &mut self,
            request: $request,
        ) -> Result<AnswerStream<$answer>, Failure> {
            let answers: Pin<Box<dyn Stream<Item = Result<$answer, Status>> + Send>> =
                match &mut self.backend {
                    Backend::Service(client) => match client.$name(request).await {
                        Ok(answers) => Box::pin(answers.into_inner()),
                        Err(status) => return Err(work_refused(&self.address, &status)),
                    },
                    Backend::Servers(letters, _) => match letters.$name(by_operator(request)).await
                    {
                        Ok(answers) => answers.into_inner(),
                        Err(status) => return Err(work_refused(&self.address, &status)),
                    },
                };
            let address = self.address.clone();
            Ok(Box::pin(answers.map(move |answer| {
                answer.map_err(|status| work_refused(&address, &status))
            })))
        }
    };
}

impl DeadLetterClient {
    method!(list_dead_letters(v1::ListDeadLettersRequest) -> v1::ListDeadLettersResponse);
    method!(get_dead_letter(v1::GetDeadLetterRequest) -> v1::GetDeadLetterResponse);
    method!(list_dead_letter_groups(v1::ListDeadLetterGroupsRequest) -> v1::ListDeadLetterGroupsResponse);
    method!(edit_dead_letter(v1::EditDeadLetterRequest) -> v1::EditDeadLetterResponse);
    method!(sync_dead_letters(v1::SyncDeadLettersRequest) -> v1::SyncDeadLettersResponse);
    method!(list_dead_letter_audit(v1::ListDeadLetterAuditRequest) -> v1::ListDeadLetterAuditResponse);
    method!(replay_dead_letters(v1::ReplayDeadLettersRequest) -> stream v1::ReplayDeadLettersResponse);
    method!(discard_dead_letters(v1::DiscardDeadLettersRequest) -> stream v1::DiscardDeadLettersResponse);
    method!(undiscard_dead_letters(v1::UndiscardDeadLettersRequest) -> stream v1::UndiscardDeadLettersResponse);

    /// Makes ready whoever does the work.
    pub(super) async fn open(executor: Executor, config: &Config) -> Result<Self, Failure> {
        match executor {
            Executor::Service {
                connection,
                address,
            } => {
                let client = DeadLetterServiceClient::new(connection)
                    .max_decoding_message_size(MAX_ANSWER_BYTES);
                let backend = Backend::Service(client);
                Ok(Self { backend, address })
            }
            Executor::ThisProcess => {
                let store = Store::connect(&config.store).await?;
                let redrive = Redrive::new(store.clone(), config, Flow::default());
                Ok(Self {
                    backend: Backend::Servers(Box::new(DeadLetters::new(redrive)), store),
                    address: "this process".into(),
                })
            }
        }
    }

    /// Ends in order: a job whose progress nobody reads any more is given the
    /// time to hand back what it holds.
    pub(super) async fn close(self) {
        let Backend::Servers(letters, store) = self.backend else {
            return;
        };
        let ended = async {
            while store.is_dead_letter_lease_taken().await.unwrap_or(false) {
                tokio::time::sleep(JOB_END_POLL_INTERVAL).await;
            }
        };
        // Out of patience: the broker gets back what is held, all the same.
        let _ = tokio::time::timeout(JOB_END_TIMEOUT, ended).await;
        letters.close().await;
        store.close().await;
    }
}

/// A request of whoever runs this process.
fn by_operator<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    let operator = Identity::local(&operator());
    request.extensions_mut().insert(operator);
    request
}
