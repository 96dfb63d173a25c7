//! Detects that the leader's process is gone. etcd holds its lease for seconds after a crash; the machine
//! that it ran on refuses connections immediately.

use std::{io, time::Duration};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How long a connection may take.
const WITHIN: Duration = Duration::from_secs(1);
/// The least time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after a refusal the port is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// Completes when the process behind a URL is gone: it was reached once, and since then its machine refuses connections. A machine that
/// does not answer proves nothing, and neither does an address that was never reached.
pub(super) async fn is_gone(url: &str) {
    let Some(address) = address(url) else { return std::future::pending().await };
    let mut reached = false;
    loop {
        let again = Instant::now() + PAUSE;
        match timeout(WITHIN, TcpStream::connect(&address)).await {
            Ok(Ok(mut connection)) => {
                reached = true;
                // The kernel closes it with the process. Nothing is sent here, so the controller closes it as well after a while.
                let _ = connection.read(&mut [0]).await;
                // A controller without room for connections closes it immediately.
                sleep_until(again).await;
            }
            Ok(Err(error)) if reached && error.kind() == io::ErrorKind::ConnectionRefused => {
                sleep(AGAIN).await;
                let again = timeout(WITHIN, TcpStream::connect(&address)).await;
                if matches!(again, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused) {
                    return;
                }
            }
            _ => sleep(PAUSE).await,
        }
    }
}

/// Host and port of a URL.
fn address(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Completes when the process of the current leader is gone.
pub(super) async fn of_leader_is_gone<T: Clone + PartialEq>(mut leader: watch::Receiver<Option<(T, String)>>) -> T {
    loop {
        let now = leader.borrow_and_update().clone();
        let changed = async {
            if leader.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match now {
            None => changed.await,
            Some((name, url)) => tokio::select! {
                () = is_gone(&url) => return name,
                () = changed => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_process_is_gone_when_its_port_refuses_connections_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let gone = tokio::spawn({
            let url = url.clone();
            async move { is_gone(&url).await }
        });
        // A connection that is closed, as an idle one is, is opened again.
        drop(listener.accept().await.unwrap());
        let (connection, _) = listener.accept().await.unwrap();
        assert!(!gone.is_finished());
        drop(listener);
        drop(connection);
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_was_never_reached_proves_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let waited = timeout(Duration::from_millis(300), is_gone(&url)).await;
        assert!(waited.is_err(), "its address may be wrong, or blocked from here");
        assert!(timeout(Duration::from_millis(50), is_gone("not a url")).await.is_err());
    }

    #[test]
    fn urls_have_addresses() {
        let addresses = ["https://c1.example:7400", "http://192.0.2.1", "https://[2001:db8::1]:7400/"].map(address);
        let expected = ["c1.example:7400", "192.0.2.1:80", "[2001:db8::1]:7400"];
        assert_eq!(addresses, expected.map(|it| Some(it.to_owned())));
    }
}
