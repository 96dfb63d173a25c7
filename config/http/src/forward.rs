//! Forwards requests to another server unchanged, and its responses back, streaming the bodies.

use crate::{chain, tls::Identity};
use axum::body::Body;
use http::{
    HeaderMap, HeaderName, Request, Response, Uri,
    header::{
        CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::service_fn;

/// How long the other server may take to accept a connection, the TLS handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long an idle connection is kept for the next request: shorter than the other server keeps it.
const IDLE: Duration = Duration::from_secs(5);

/// A request that could not be forwarded, or got no response.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The URL does not name a server.
    #[error("{0} is no URL of a server")]
    Url(String),
    /// It does not respond.
    #[error("{}", chain(.0))]
    Silent(#[from] hyper_util::client::legacy::Error),
}

/// A connection over TCP or TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

async fn connect(to: Uri, tls: Option<Arc<ClientConfig>>) -> io::Result<TokioIo<Stream>> {
    let address = || io::Error::new(io::ErrorKind::InvalidInput, format!("{to} names no host"));
    let host = to.host().ok_or_else(address)?.trim_matches(['[', ']']);
    let secure = to.scheme() == Some(&Scheme::HTTPS);
    let port = to.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    // Without it a small request may wait for the acknowledgement of the previous one.
    stream.set_nodelay(true)?;
    if !secure {
        return Ok(TokioIo::new(Stream::Plain(stream)));
    }
    let no_tls = || io::Error::new(io::ErrorKind::InvalidInput, "TLS is off here, and on there");
    let name = ServerName::try_from(host.to_owned()).map_err(|_| address())?;
    let stream = TlsConnector::from(tls.ok_or_else(no_tls)?).connect(name, stream).await?;
    Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
}

/// What connects to a server.
type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;
type Connect = tower::util::BoxCloneSyncService<Uri, TokioIo<Stream>, io::Error>;

/// A client that forwards requests. Clones share its connections.
#[derive(Clone)]
pub struct Forwarder {
    client: Client<Connect, Body>,
}

impl Forwarder {
    /// Over TLS, the other server must have this name in its certificate.
    pub fn new(identity: Option<&Identity>, name: &str) -> Self {
        let tls = identity.map(|identity| Arc::new(identity.client_of(name)));
        let connect = service_fn(move |to: Uri| -> Connecting {
            let tls = tls.clone();
            Box::pin(async move {
                let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                tokio::time::timeout(CONNECT_WITHIN, connect(to, tls)).await.map_err(late)?
            })
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // The client's Host header stays.
            .set_host(false)
            .build(Connect::new(connect));
        Self { client }
    }

    /// Forwards a request to the server at `base`, with method, path, query, headers and body unchanged. `own` are
    /// headers of ours: the client can neither add to them nor remove them, whatever headers it sends.
    pub async fn forward(
        &self,
        base: &str,
        mut request: Request<Body>,
        own: HeaderMap,
    ) -> Result<Response<Body>, ForwardError> {
        let wrong = || ForwardError::Url(base.to_owned());
        let mut to = base.parse::<Uri>().map_err(|_| wrong())?.into_parts();
        let authority: Authority = to.authority.clone().ok_or_else(wrong)?;
        to.path_and_query = Some(request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(to).map_err(|_| wrong())?;
        *request.version_mut() = http::Version::HTTP_11;
        request.extensions_mut().clear();
        own_connection(request.headers_mut());
        if !request.headers().contains_key(HOST)
            && let Ok(host) = authority.as_str().parse()
        {
            request.headers_mut().insert(HOST, host);
        }
        for name in own.keys() {
            request.headers_mut().remove(name);
        }
        request.headers_mut().extend(own);
        let mut answer = self.client.request(request).await?;
        own_connection(answer.headers_mut());
        Ok(answer.map(Body::new))
    }
}

/// Removes hop-by-hop headers (RFC 9110 section 7.6.1).
fn own_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let others = ["keep-alive", "proxy-connection"].map(HeaderName::from_static);
    let usual = [CONNECTION, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in named.into_iter().chain(usual).chain(others) {
        headers.remove(name);
    }
}
