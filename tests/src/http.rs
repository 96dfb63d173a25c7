//! HTTP requests from a network namespace, one connection each: all that the lab needs.

use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(15);

/// A daemon's HTTP interface, as seen from a network namespace.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The namespace that the requests come from.
    pub from: Netns,
    /// Where the daemon listens.
    pub to: SocketAddr,
    /// The bearer token, if one is needed.
    pub token: Option<String>,
    /// The expected server, and the client's certificate.
    pub tls: Arc<ClientConfig>,
}

impl Endpoint {
    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.to)
    }

    /// Makes a request, for instance `GET`, with an optional JSON body. A response other than 200 is an error.
    pub fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<T> {
        let context = || format!("{method} {} from {}", self.url(path), self.from.name());
        let answer = self.from.within(|| self.request(method, path, body)).with_context(context)?;
        serde_json::from_str(&answer).with_context(|| format!("{answer:?}")).with_context(context)
    }

    /// The body of the response to a GET, as text.
    pub fn text(&self, path: &str) -> Result<String> {
        self.from.within(|| self.request("GET", path, None)).with_context(|| self.url(path))
    }

    /// The body of the response. The daemons send `Content-Length`, so no other framing is supported.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = vec![
            format!("{method} {path} HTTP/1.1"),
            format!("host: {}", self.to),
            "connection: close".to_owned(),
            "content-type: application/json".to_owned(),
            format!("content-length: {}", body.len()),
        ];
        head.extend(self.token.as_ref().map(|token| format!("authorization: Bearer {token}")));
        let stream = TcpStream::connect_timeout(&self.to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // The request must not wait until the end of the handshake is acknowledged.
        stream.set_nodelay(true)?;
        let session = ClientConnection::new(Arc::clone(&self.tls), self.to.ip().into())?;
        let mut stream = StreamOwned::new(session, stream);
        stream.write_all(format!("{}\r\n\r\n{body}", head.join("\r\n")).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        if status != "200" {
            bail!("answered {status}: {body}");
        }
        Ok(body.to_owned())
    }
}
