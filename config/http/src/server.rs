//! Accepting connections, TLS handshakes, HTTP.

use crate::{
    body::{Answered, Paced},
    places::{Connection, Limits, Places},
    socket::Socket,
    tls::Peer,
};
use axum::{Router, body::Body, extract::ConnectInfo, http::HeaderValue};
use http::header::{EXPECT, STRICT_TRANSPORT_SECURITY};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::ServerConfig;
use socket2::SockRef;
use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// The largest head of a request, in bytes, and how much of a body is read at a time.
const MAX_HEAD: usize = 32 * 1024;
/// `ENFILE`, `EMFILE`, `ENOBUFS`, `ENOMEM`: there may be room again soon.
const NO_MORE_FILES: [i32; 4] = [23, 24, 105, 12];
/// For how long browsers that have connected over TLS use only TLS (RFC 6797): a year.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Serves with these places until `shutdown` completes, then lets pending requests end within a grace period. Requests
/// carry the client's address ([`ConnectInfo`]) and its [`Connection`] as extensions, and over TLS its [`Peer`]; one
/// without a certificate has no names.
pub async fn serve(
    places: Arc<Places>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let limits = places.limits().clone();
    let acceptor = tls.map(TlsAcceptor::from);
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD);
    let server = Server { limits: Arc::new(limits), builder, router };
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // No connection stays in the kernel's queue, where clients with many connections could keep others out.
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The client has already closed it.
                    if error.raw_os_error().is_some_and(|code| NO_MORE_FILES.contains(&code)) {
                        tracing::warn!(%error, "cannot accept a connection");
                        places.take_one();
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let Some(connection) = places.enter(from.ip()) else {
            tracing::debug!(client = %from.ip(), "refused: it has too many connections");
            // Resets it, so that the kernel keeps nothing of it.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            continue;
        };
        let (server, watcher, acceptor) = (server.clone(), graceful.watcher(), acceptor.clone());
        tokio::spawn(async move {
            let entry = Arc::clone(connection.entry());
            let served = async {
                match acceptor {
                    None => {
                        let socket = Socket::new(stream, connection.clone(), server.limits.rate);
                        server.connection(socket, connection, from, None, watcher).await;
                    }
                    Some(acceptor) => server.handshake(&acceptor, stream, connection, from, watcher).await,
                }
            };
            tokio::select! {
                () = served => {}
                () = entry.taken() => tracing::debug!(client = %from.ip(), "ended: others need its place"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(places.limits().grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end within the grace period");
    }
}

/// Serves with limits of its own.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    serve(Places::new(limits), listener, tls, router, shutdown).await;
}

/// What every connection needs.
#[derive(Clone)]
struct Server {
    limits: Arc<Limits>,
    builder: auto::Builder<TokioExecutor>,
    router: Router,
}

impl Server {
    async fn handshake(
        &self,
        acceptor: &TlsAcceptor,
        stream: TcpStream,
        connection: Connection,
        from: SocketAddr,
        watcher: Watcher,
    ) {
        let socket = Socket::new(stream, connection.clone(), self.limits.rate);
        match tokio::time::timeout(self.limits.head, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = certificate.map(Peer::of).unwrap_or_default();
                if let Some(certificate) = certificate {
                    // The new connection must not be closed to make room for itself.
                    connection.entry().serve_client();
                    if let Err(error) = connection.is_of_certificate(certificate, &peer) {
                        tracing::warn!(%error, client = ?peer.names, "connection refused");
                        return;
                    }
                    connection.entry().wait_for_client();
                }
                self.connection(stream, connection, from, Some(peer), watcher).await;
            }
            // A mistake of an unknown client, which must not fill the log.
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn connection<S>(
        &self,
        stream: S,
        connection: Connection,
        from: SocketAddr,
        peer: Option<Peer>,
        watcher: Watcher,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, rate) = (self.router.clone(), self.limits.rate);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            connection.entry().serve_client();
            let awaited = request.headers().contains_key(EXPECT);
            let mut request = request.map(|body| Body::new(Paced::new(body, connection.clone(), rate, awaited)));
            request.extensions_mut().insert(ConnectInfo(from));
            request.extensions_mut().insert(connection.clone());
            let is_tls = peer.is_some();
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let (router, connection) = (router.clone(), connection.clone());
            async move {
                let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
                if is_tls {
                    response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, TLS_ONLY);
                }
                Ok::<_, Infallible>(response.map(|body| Answered::new(body, connection)))
            }
        });
        let served = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(served).await {
            tracing::debug!(error, "connection ended early");
        }
    }
}
