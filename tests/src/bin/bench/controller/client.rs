//! HTTP over one persistent connection: what is measured is the other side.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Client {
    stream: TcpStream,
    to: SocketAddr,
    token: String,
}

impl Client {
    pub(crate) fn new(to: SocketAddr, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, to, token: token.to_owned() })
    }

    /// The status and the body of the response.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.to,
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut part = vec![0; 64 * 1024];
        let (status, start, length) = loop {
            self.more(&mut bytes, &mut part)?;
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let status = head.split_whitespace().nth(1).unwrap_or_default().parse()?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
            break (status, end + 4, length.trim().parse::<usize>()?);
        };
        while bytes.len() < start + length {
            self.more(&mut bytes, &mut part)?;
        }
        Ok((status, String::from_utf8(bytes[start..start + length].to_vec())?))
    }

    fn more(&mut self, bytes: &mut Vec<u8>, part: &mut [u8]) -> Result<()> {
        let read = self.stream.read(part)?;
        ensure!(read > 0, "the connection was closed");
        bytes.extend_from_slice(&part[..read]);
        Ok(())
    }

    /// The result of a call that has to succeed.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, text) = self.ask(method, path, body)?;
        ensure!(status == 200, "{method} {path} was answered with {status}: {text}");
        Ok(serde_json::from_str::<Value>(&text)?["result"].take())
    }
}
