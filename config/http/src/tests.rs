use super::*;
use axum::{
    Router,
    body::Body,
    middleware,
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

const SHORT: Duration = Duration::from_millis(200);
/// More than the kernel buffers for a client that reads nothing.
const LARGE: usize = 16 * 1024 * 1024;

const HOUR: Duration = Duration::from_hours(1);

async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    start_with(Places::new(limits)).await
}

async fn start_with(places: Arc<Places>) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
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
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route("/take", post(async |body: String| body))
        .route("/refuse", post(async || "no"))
        .route("/never", get(std::future::pending::<&'static str>))
        .merge(limited);
    let (stop, stopped) = oneshot::channel();
    let server = serve(places, listener, None, router, async move { stopped.await.unwrap_or_default() });
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
    // Ends when the server closes it; a server without the limit would let this wait forever.
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

/// A response given before the body is read arrives, also at a client that reads nothing before it has sent everything;
/// and the body is not drained without end.
#[tokio::test]
async fn a_client_refused_while_sending_gets_the_response() {
    let (address, _stop, _server) = start(Limits::default()).await;
    let head = |length: usize| format!("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    for _ in 0..10 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head(900_000).as_bytes()).await.unwrap();
        for _ in 0..9 {
            stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        // The connection continues.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let text = answer(stream).await;
        assert!(text.contains("no") && text.ends_with("hello"), "{text}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head(LARGE).as_bytes()).await.unwrap();
    let mut sent = 0;
    while sent < LARGE && stream.write_all(&vec![b'x'; 65_536]).await.is_ok() {
        sent += 65_536;
    }
    assert!(sent < LARGE, "all of it was taken");
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
    assert!(TcpStream::connect(address).await.is_err(), "the server has stopped listening");
}

/// Requests much, and does not read.
async fn ask_for_much(address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_mins(1), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("in time");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let rate = MinimumRate { stall: SHORT, bytes_per_s: 1_000_000 };
    let places = Places::new(Limits { head: HOUR, rate, ..Limits::default() });
    let (address, _stop, _server) = start_with(Arc::clone(&places)).await;
    let mut silent = ask_for_much(address).await;
    until(|| places.figures().strangers == 1).await;
    until(|| places.figures().strangers == 0).await;
    let mut rest = Vec::new();
    let ended = silent.read_to_end(&mut rest).await;
    assert!(ended.is_err() && rest.len() < LARGE, "reset, and not a whole answer: {ended:?}, {}", rest.len());
}

#[tokio::test]
async fn a_slow_reader_gets_the_whole_response() {
    let rate = MinimumRate { stall: 5 * SHORT, bytes_per_s: 1000 };
    let (address, _stop, _server) = start(Limits { rate, ..Limits::default() }).await;
    let mut slow = ask_for_much(address).await;
    let (mut taken, mut buffer) = (0, vec![0; LARGE / 10]);
    // For longer than it may read nothing.
    let slow_until = tokio::time::Instant::now() + 10 * SHORT;
    while taken < LARGE {
        let read = slow.read(&mut buffer).await.unwrap();
        assert!(read > 0, "ended after {taken} bytes");
        taken += read;
        if tokio::time::Instant::now() < slow_until {
            tokio::time::sleep(SHORT / 20).await;
        }
    }
}

#[tokio::test]
async fn a_stalled_body_is_abandoned() {
    let rate = MinimumRate { stall: SHORT, bytes_per_s: 1_000_000 };
    let (address, _stop, _server) = start(Limits { head: HOUR, rate, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /take HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = answer(stream).await;
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("too slowly"), "{text}");
}

#[tokio::test]
async fn connections_that_wait_for_their_clients_give_way_and_streams_do_not() {
    let rate = MinimumRate { stall: HOUR, bytes_per_s: 1 };
    let places = Places::new(Limits { head: HOUR, rate, per_address: 8, ..Limits::default() });
    let (address, _stop, _server) = start_with(Arc::clone(&places)).await;
    let mut stream = BufReader::new(ask(address, "/ticks").await).lines();
    while stream.next_line().await.unwrap().expect("the stream ended") != "tick" {}
    let mut others = Vec::new();
    for number in 0..40_usize {
        others.push(match number % 4 {
            0 => TcpStream::connect(address).await.unwrap(),
            1 => ask_for_much(address).await,
            2 => {
                let mut head = TcpStream::connect(address).await.unwrap();
                head.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: y").await.unwrap();
                head
            }
            _ => {
                let mut body = TcpStream::connect(address).await.unwrap();
                body.write_all(b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
                body
            }
        });
        assert!(answer(ask(address, "/").await).await.ends_with("hello"), "{number}");
    }
    assert!(places.figures().strangers <= 8 && places.figures().taken > 20, "{:?}", places.figures());
    for _ in 0..20 {
        while stream.next_line().await.unwrap().expect("the stream ended") != "tick" {}
    }
    drop(others);
    drop(stream);
    until(|| places.figures().strangers == 0).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (address, _stop, _server) = start(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
}
