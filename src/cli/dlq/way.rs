//! The way to the dead letters: a running service, or none needed.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::cli::{ExitCode, Failure, output, remote};
use crate::config::Config;
use crate::grpc::DeadLetters;
use crate::grpc::v1::{
    self, dead_letter_service_client::DeadLetterServiceClient,
    dead_letter_service_server::DeadLetterService as _,
};
use crate::redrive::Redrive;
use crate::store::Store;

/// Answers may have a thousand letters, or one with its body.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long a job that is not listened to any more may take to end in order.
const ENDING: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Progress of a job as it is told.
pub(super) type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Failure>> + Send>>;

/// Who does the work. Both are asked the same questions.
pub(super) struct Way {
    to: To,
    address: String,
}

enum To {
    Service(DeadLetterServiceClient<Channel>),
    /// The service's own code, in this process.
    Servers(Box<DeadLetters>, Store),
}

/// A method of the service, whoever answers.
macro_rules! method {
    ($name:ident($request:ty) -> $answer:ty) => {
        pub(super) async fn $name(&mut self, request: $request) -> Result<$answer, Failure> {
            let answer = match &mut self.to {
                To::Service(client) => client.$name(request).await,
                To::Servers(letters, _) => letters.$name(Request::new(request)).await,
            };
            let answer = answer.map(Response::into_inner);
            answer.map_err(|status| refused(&self.address, &status))
        }
    };
    ($name:ident($request:ty) -> stream $answer:ty) => {
        pub(super) async fn $name(&mut self, request: $request) -> Result<Told<$answer>, Failure> {
            let answers: Pin<Box<dyn Stream<Item = Result<$answer, Status>> + Send>> =
                match &mut self.to {
                    To::Service(client) => match client.$name(request).await {
                        Ok(answers) => Box::pin(answers.into_inner()),
                        Err(status) => return Err(refused(&self.address, &status)),
                    },
                    To::Servers(letters, _) => match letters.$name(Request::new(request)).await {
                        Ok(answers) => answers.into_inner(),
                        Err(status) => return Err(refused(&self.address, &status)),
                    },
                };
            let address = self.address.clone();
            Ok(Box::pin(answers.map(move |answer| {
                answer.map_err(|status| refused(&address, &status))
            })))
        }
    };
}

impl Way {
    method!(list_dead_letters(v1::ListDeadLettersRequest) -> v1::ListDeadLettersResponse);
    method!(get_dead_letter(v1::GetDeadLetterRequest) -> v1::GetDeadLetterResponse);
    method!(list_dead_letter_groups(v1::ListDeadLetterGroupsRequest) -> v1::ListDeadLetterGroupsResponse);
    method!(edit_dead_letter(v1::EditDeadLetterRequest) -> v1::EditDeadLetterResponse);
    method!(sync_dead_letters(v1::SyncDeadLettersRequest) -> v1::SyncDeadLettersResponse);
    method!(list_dead_letter_audit(v1::ListDeadLetterAuditRequest) -> v1::ListDeadLetterAuditResponse);
    method!(replay_dead_letters(v1::ReplayDeadLettersRequest) -> stream v1::ReplayDeadLettersResponse);
    method!(discard_dead_letters(v1::DiscardDeadLettersRequest) -> stream v1::DiscardDeadLettersResponse);
    method!(undiscard_dead_letters(v1::UndiscardDeadLettersRequest) -> stream v1::UndiscardDeadLettersResponse);

    /// A running service; the servers themselves when none answers. An address
    /// that was given must answer.
    pub(super) async fn find(address: Option<&str>, config: &Config) -> Result<Self, Failure> {
        match remote::connect(address.unwrap_or(&config.admin.listen)).await {
            Ok((address, channel)) => {
                let client = DeadLetterServiceClient::new(channel)
                    .max_decoding_message_size(MAX_ANSWER_BYTES);
                let to = To::Service(client);
                Ok(Self { to, address })
            }
            Err(failure) if failure.is_server() && address.is_none() => {
                output::aside(&format!(
                    "no service answers at {}: working on RabbitMQ and MongoDB directly",
                    config.admin.listen
                ));
                Self::direct(config).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// The servers themselves.
    pub(super) async fn direct(config: &Config) -> Result<Self, Failure> {
        let store = Store::connect(&config.store).await?;
        let letters = DeadLetters::new(Redrive::new(store.clone(), config));
        Ok(Self {
            to: To::Servers(Box::new(letters), store),
            address: "this process".into(),
        })
    }

    /// Ends in order: a job whose progress nobody reads any more is given the
    /// time to hand back what it holds.
    pub(super) async fn close(self) {
        let To::Servers(letters, store) = self.to else {
            return;
        };
        let ended = async {
            while store.lease_taken().await.unwrap_or(false) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Out of patience: the broker gets back what is held, all the same.
        let _ = tokio::time::timeout(ENDING, ended).await;
        letters.close().await;
        store.close().await;
    }
}

/// What the person at the terminal is told of a refusal.
fn refused(address: &str, status: &Status) -> Failure {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted => {
            Failure::new(ExitCode::No, status.message())
        }
        Code::Aborted => Failure::new(ExitCode::Server, status.message()),
        _ => remote::refused(address, status),
    }
}
