//! An HTTP server that outlives slow, silent and too many clients, over plain TCP or over [TLS](tls).

pub mod forward;
pub mod metrics;
pub mod tls;

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tls::Peer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

/// How long a request may take from its head to its answer, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// An error with everything that led to it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What clients may take of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take to send the head of a request, and how long a connection may be idle between two.
    /// (`axum::serve` sets no limit at all.) A TLS handshake may take as long.
    pub head: Duration,
    /// How many connections there may be. Further ones wait until one ends.
    pub connections: usize,
    /// How long requests under way may take to end after the shutdown began.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), connections: 4096, grace: Duration::from_secs(5) }
    }
}

/// A middleware that answers 408 when it takes longer than `limit`, in general [`REQUEST_TIMEOUT`], until there is an answer.
/// An answer that is a stream may go on.
pub async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let text = format!("the request was not done within {} s", limit.as_secs_f32());
        (StatusCode::REQUEST_TIMEOUT, text).into_response()
    })
}

/// Serves with the usual limits until `shutdown` completes, then lets requests under way end within a grace period. Requests
/// carry the client's address ([`ConnectInfo`]) as an extension, and over TLS its [`Peer`]; one without a certificate has no names.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(Limits::default(), listener, tls, router, shutdown).await;
}

/// Serves until `shutdown` completes, then lets requests under way end within a grace period.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    let server = Server { limits, builder, router };
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // A client that gets no place waits in the kernel's queue; those that have one lose it when they are too slow.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream, from) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, from)) => (place, stream, from),
                Err(error) => {
                    // Too many open files and the like: there may be room again soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // Without it a small answer may wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let (server, watcher, acceptor) = (server.clone(), graceful.watcher(), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => server.connection(stream, from, None, watcher).await,
                Some(acceptor) => server.handshake(&acceptor, stream, from, watcher).await,
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end within the grace period");
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Server {
    limits: Limits,
    builder: auto::Builder<TokioExecutor>,
    router: Router,
}

impl Server {
    async fn handshake(&self, acceptor: &TlsAcceptor, stream: TcpStream, from: SocketAddr, watcher: Watcher) {
        match tokio::time::timeout(self.limits.head, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = certificate.map(Peer::of).unwrap_or_default();
                self.connection(stream, from, Some(peer), watcher).await;
            }
            // A stranger's mistake, which must not fill the log.
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn connection<S>(&self, stream: S, from: SocketAddr, peer: Option<Peer>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let inner = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(from));
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            inner.call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error, "connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        body::Body,
        middleware,
        routing::{get, post},
    };
    use futures_util::{StreamExt, stream};
    use std::convert::Infallible;
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpStream,
        sync::oneshot,
        task::JoinHandle,
    };

    const SHORT: Duration = Duration::from_millis(200);

    async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ticking = async || {
            let ticks = stream::repeat(()).then(async |()| {
                tokio::time::sleep(SHORT / 4).await;
                Ok::<_, Infallible>("tick\n")
            });
            Body::from_stream(ticks)
        };
        let limited = Router::new()
            .route("/ticks", get(ticking))
            .route("/upload", post(async |body: String| body))
            .layer(middleware::from_fn_with_state(SHORT, within));
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/never", get(std::future::pending::<&'static str>))
            .merge(limited);
        let (stop, stopped) = oneshot::channel();
        let server = serve_within(limits, listener, None, router, async move { stopped.await.unwrap_or_default() });
        (address, stop, tokio::spawn(server))
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_head_that_is_dribbled_ends_the_connection() {
        let (address, _stop, _server) = start(Limits { head: SHORT, ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        // Ends when the server closes it; a server without the limit would let this wait for ever.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(answer(ask(address, "/").await).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn a_body_that_is_dribbled_is_refused() {
        let (address, _stop, _server) = start(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhalf";
        stream.write_all(head.as_bytes()).await.unwrap();
        let text = answer(stream).await;
        assert!(text.starts_with("HTTP/1.1 408") && text.ends_with("not done within 0.2 s"), "{text}");
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_the_request() {
        let (address, _stop, _server) = start(Limits::default()).await;
        let mut lines = BufReader::new(ask(address, "/ticks").await).lines();
        for _ in 0..20 {
            while lines.next_line().await.unwrap().expect("the stream ended") != "tick" {}
        }
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_others_out() {
        let (address, _stop, _server) = start(Limits { head: SHORT, connections: 2, ..Limits::default() }).await;
        let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        assert!(answer(ask(address, "/").await).await.ends_with("hello"));
        drop(silent);
    }

    #[tokio::test]
    async fn a_request_that_never_ends_does_not_hold_the_shutdown() {
        let (address, stop, server) = start(Limits { grace: SHORT, ..Limits::default() }).await;
        let _hanging = ask(address, "/never").await;
        assert!(answer(ask(address, "/").await).await.ends_with("hello"));
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
