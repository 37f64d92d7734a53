//! What one caller can do to the others: nothing. Each test does what an
//! attacker did, while somebody else goes on reading.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use futures::future::try_join_all;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::events::{self, TENANT, join};
use crate::kit::raw_http2::{HEADERS, INITIAL_WINDOW, RawHttp2, WINDOW_UPDATE};
use crate::kit::service::{Result, Service, until};
use crate::world::World;

/// Calls that a connection may have open.
const STREAMS: u32 = 64;
const GET_USER: &str = "/chatcounters.v1.CounterService/GetUserStats";
const GET_LETTER: &str = "/chatcounters.v1.DeadLetterService/GetDeadLetter";

/// Somebody else, who calls from another address.
async fn other(to: SocketAddr) -> Result<Channel> {
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?.local_address(Some(from));
    Ok(endpoint.connect().await?)
}

async fn begin(name: &str) -> Result<(World, Service, CounterServiceClient<Channel>)> {
    let world = World::new(name);
    let service = world.service().await?;
    world.publish(&[join("j", "d", "ann", 1)]).await?;
    service.has_settled(1).await?;
    let client = CounterServiceClient::new(other(service.grpc).await?);
    Ok((world, service, client))
}

fn ann() -> v1::GetUserStatsRequest {
    v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "ann".into(),
        after_event_id: String::new(),
        ..Default::default()
    }
}

/// Reads until a time has passed; every read must be answered, and soon.
async fn reads_on(client: &CounterServiceClient<Channel>, length: Duration) -> Result<u64> {
    let (began, mut reads) = (Instant::now(), 0);
    while began.elapsed() < length {
        let mut request = Request::new(ann());
        request.set_timeout(Duration::from_secs(3));
        client.clone().get_user_stats(request).await?;
        reads += 1;
    }
    Ok(reads)
}

#[tokio::test]
async fn calls_that_send_no_request_hold_nobody_up() -> Result<()> {
    let (_world, service, client) = begin("bodiless").await?;
    let attackers = (0..4).map(|_| async {
        let mut connection = RawHttp2::connect(service.grpc, &[]).await?;
        for call in 0..STREAMS {
            connection.call(2 * call + 1, GET_USER).await?;
        }
        // Each is told, when its time is over.
        for _ in 0..STREAMS {
            connection.until(HEADERS).await?;
        }
        Result::Ok(Instant::now())
    });
    let began = Instant::now();
    let (told, reads) = tokio::join!(
        try_join_all(attackers),
        reads_on(&client, Duration::from_secs(6))
    );
    assert!(reads? > 10);
    for at in told? {
        let after = at - began;
        assert!(after > Duration::from_secs(4), "{after:?}");
        assert!(after < Duration::from_secs(20), "{after:?}");
    }
    service.stop().await
}

#[tokio::test]
async fn calls_that_wait_for_ever_or_go_through_everything_hold_nobody_up() -> Result<()> {
    let (_world, service, client) = begin("waiting").await?;
    let attack = |number: u32| {
        let to = format!("http://{}", service.grpc);
        async move {
            let mut client = CounterServiceClient::connect(to).await?;
            let calls = (0..STREAMS).map(|_| {
                let mut client = client.clone();
                async move {
                    let mut request = Request::new(v1::GetUserStatsRequest {
                        after_event_id: "never".into(),
                        ..ann()
                    });
                    request.set_timeout(Duration::from_secs(5));
                    let status = client.get_user_stats(request).await.unwrap_err();
                    status.code()
                }
            });
            let codes = futures::future::join_all(calls).await;
            let history = v1::ListCounterHistoryRequest {
                tenant_id: TENANT.into(),
                user_id: "ann".into(),
                ..Default::default()
            };
            // Whatever comes of it; others are not to notice.
            for _ in 0..number {
                let _ = client.list_counter_history(history.clone()).await;
            }
            Result::Ok(codes)
        }
    };
    let attackers = (0..4).map(attack);
    let reading = async {
        let reads = reads_on(&client, Duration::from_secs(6)).await?;
        assert!(reads > 10, "{reads}");
        Result::Ok(())
    };
    let (codes, ()) = tokio::try_join!(try_join_all(attackers), reading)?;
    let codes = codes.concat();
    let waited = |code: &&Code| matches!(code, Code::DeadlineExceeded | Code::Cancelled);
    assert!(codes.iter().filter(waited).count() > 0, "{codes:?}");
    service.stop().await
}

#[tokio::test]
async fn whoever_takes_no_answer_loses_the_connection() -> Result<()> {
    let (_world, service, client) = begin("untaken").await?;
    let attackers = (0..4).map(|_| async {
        let mut connection = RawHttp2::connect(service.grpc, &[(INITIAL_WINDOW, 0)]).await?;
        for call in 0..STREAMS {
            connection.call(2 * call + 1, GET_USER).await?;
            let message = ann().encode_to_vec();
            connection.message(2 * call + 1, &message).await?;
        }
        connection.end().await?;
        Result::Ok(Instant::now())
    });
    let began = Instant::now();
    let (ended, reads) = tokio::join!(
        try_join_all(attackers),
        reads_on(&client, Duration::from_secs(12))
    );
    assert!(reads? > 10);
    for at in ended? {
        let after = at - began;
        assert!(after > Duration::from_secs(9), "{after:?}");
        assert!(after < Duration::from_secs(40), "{after:?}");
    }
    service.stop().await
}

/// Each answer of a megabyte, in 256 calls whose answers nobody reads.
#[tokio::test]
async fn large_letters_that_nobody_reads_cost_little() -> Result<()> {
    let (world, service, _client) = begin("large_letters").await?;
    let poison = format!("{{\"eventId\":\"{}", "x".repeat(1_000_000));
    world.publish(&[events::raw(poison.as_bytes())]).await?;
    let mut letters = DeadLetterServiceClient::new(other(service.admin).await?);
    let listed = until("the letter is listed", || async {
        let request = v1::ListDeadLettersRequest::default();
        let listed = letters.clone().list_dead_letters(request).await.ok()?;
        listed.into_inner().dead_letters.into_iter().next()
    });
    let id = listed.await?.id;
    let request = v1::GetDeadLetterRequest { id };
    let answer = letters.get_dead_letter(request.clone()).await?.into_inner();
    assert_eq!(answer.body.len(), poison.len());

    let before = service.peak_rss_mib()?;
    let message = request.encode_to_vec();
    let attackers = (0..4).map(|_| async {
        // Room for a byte of each, and for all of them together.
        let mut connection = RawHttp2::connect(service.admin, &[(INITIAL_WINDOW, 1)]).await?;
        let room = 0x7fff_0000_u32 - 65_535;
        connection
            .send(WINDOW_UPDATE, 0, 0, &room.to_be_bytes())
            .await?;
        for call in 0..STREAMS {
            connection.call(2 * call + 1, GET_LETTER).await?;
            connection.message(2 * call + 1, &message).await?;
        }
        connection.unread().await
    });
    try_join_all(attackers).await?;
    let grown = service.peak_rss_mib()? - before;
    assert!(grown < 64.0, "{grown} MiB");
    // And the places are free again.
    let answer = letters.get_dead_letter(request).await?.into_inner();
    assert_eq!(answer.body.len(), poison.len());
    service.stop().await
}
