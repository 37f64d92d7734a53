//! A client of HTTP/1, with a connection for each request.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::service::Result;

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Its body, which is JSON.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn json(&self) -> Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).map_err(|error| format!("{error}: {text}").into())
    }

    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Sends a request; the answer is still to be read.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn send(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response<Incoming>> {
    send_on(
        TcpStream::connect(address).await?,
        (method, path),
        headers,
        body,
    )
    .await
}

/// Sends a request on a connection of its own; the answer is still to be read.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn send_on(
    stream: TcpStream,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response<Incoming>> {
    let address = stream.peer_addr()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its end shows in the answer.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body)))?;
    Ok(sender.send_request(request).await?)
}

/// Sends a request and reads all of the answer.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn ask(
    address: SocketAddr,
    request: (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let (parts, body) = send(address, request, headers, body).await?.into_parts();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// A server-sent event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub name: String,
    pub id: String,
    pub data: String,
    pub retry: Option<u64>,
}

/// The events of an answer.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    come: String,
}

impl Events {
    /// Of an answer that is a stream of them.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) async fn of(answer: Response<Incoming>) -> Result<Self> {
        let (parts, body) = answer.into_parts();
        let kind = parts.headers.get("content-type");
        if kind.is_none_or(|kind| kind != "text/event-stream") {
            let body = body.collect().await?.to_bytes();
            return Err(format!("{}: {}", parts.status, String::from_utf8_lossy(&body)).into());
        }
        let come = String::new();
        Ok(Self { body, come })
    }

    /// The next one; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.come.find("\n\n") {
                let text: String = self.come.drain(..end + 2).collect();
                return Ok(Some(event(&text)?));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.come.push_str(std::str::from_utf8(&data)?);
                    }
                }
            }
        }
    }
}

fn event(text: &str) -> Result<Event> {
    let mut event = Event::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(": ").ok_or(format!("a line {line:?}"))?;
        match field {
            "event" => event.name = value.into(),
            "id" => event.id = value.into(),
            "data" => event.data = value.into(),
            "retry" => event.retry = Some(value.parse()?),
            _ => return Err(format!("a field {field:?}").into()),
        }
    }
    Ok(event)
}
