//! An HTTP/2 client that does only what it is told: for what no library does.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::service::{POLL, Result};

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Of SETTINGS: how much of an answer may come before the client asks for more.
pub(crate) const INITIAL_WINDOW: u16 = 4;

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection that has begun.
#[derive(Debug)]
pub(crate) struct RawHttp2(TcpStream);

impl RawHttp2 {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody is there.
    pub(crate) async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(PREFACE).await?;
        let mut connection = Self(stream);
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        connection.send(SETTINGS, 0, 0, &payload).await?;
        Ok(connection)
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        Ok(self.0.write_all(&frame).await?)
    }

    /// Begins a call, with odd numbers that rise.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn call(&mut self, stream: u32, path: &str) -> Result<()> {
        // HPACK: POST, http, then literals that nobody remembers.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (&[0x04][..], path),
            (&[0x01], "test"),
            (&[0x0f, 0x10], "application/grpc"),
            (b"\x00\x02te", "trailers"),
        ] {
            block.extend_from_slice(name);
            block.push(u8::try_from(value.len())?);
            block.extend_from_slice(value.as_bytes());
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await
    }

    /// Ends a call with its message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn message(&mut self, stream: u32, message: &[u8]) -> Result<()> {
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        body.extend_from_slice(message);
        self.send(DATA, END_STREAM, stream, &body).await
    }

    /// The next frame; none at the end of the connection. Answers what must be
    /// answered.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub(crate) async fn frame(&mut self) -> Result<Option<Frame>> {
        let mut header = [0; 9];
        match self.0.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        match self.0.read_exact(&mut payload).await {
            Ok(_) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Whether the answer still arrives is no concern of the reader's.
        let _gone = match (kind, flags & ACK) {
            (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]).await,
            (PING, 0) => self.send(PING, ACK, 0, &payload).await,
            _ => Ok(()),
        };
        Ok(Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        }))
    }

    /// Reads on until a frame of this kind.
    ///
    /// # Errors
    /// When the connection ends before.
    pub(crate) async fn until(&mut self, kind: u8) -> Result<Frame> {
        loop {
            match self.frame().await? {
                Some(frame) if frame.kind == kind => return Ok(frame),
                Some(_) => {}
                None => return Err(format!("it ended before a frame of kind {kind}").into()),
            }
        }
    }

    /// Reads nothing more, until the other side is seen to have gone: what is
    /// sent is refused then.
    ///
    /// # Errors
    /// When it is there for a minute still.
    pub(crate) async fn unread(mut self) -> Result<()> {
        let began = Instant::now();
        while self.send(PING, ACK, 0, &[0; 8]).await.is_ok() {
            if began.elapsed() > Duration::from_secs(60) {
                return Err("the connection is there after a minute".into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Reads on until the connection ends.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub(crate) async fn end(&mut self) -> Result<()> {
        while self.frame().await?.is_some() {}
        Ok(())
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
