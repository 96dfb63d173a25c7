//! One HTTP request from a network namespace: all that the lab has to ask of a daemon.

use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Gets a JSON document, with a bearer token where there is one.
pub fn get<T: DeserializeOwned + Send>(from: &Netns, to: SocketAddr, path: &str, token: Option<&str>) -> Result<T> {
    let context = || format!("GET http://{to}{path} from {}", from.name());
    let body = from.within(|| request(to, path, token)).with_context(context)?;
    serde_json::from_str(&body).with_context(|| format!("{body:?}")).with_context(context)
}

/// The body of the answer to a GET. The daemons answer with `Content-Length`, so no other framing is understood.
fn request(to: SocketAddr, path: &str, token: Option<&str>) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {to}\r\n{token}connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("answered {status}: {body}");
    }
    Ok(body.to_owned())
}
