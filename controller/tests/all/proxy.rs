//! A TCP proxy that can be cut, or swallow or replace responses.

#![allow(dead_code, reason = "not every test needs everything")]
#![allow(unreachable_pub, reason = "also a part of the tests of the store")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// They pass.
    Pass,
    /// There are none.
    Cut,
    /// The request arrives, and the next response ends the connection; then they pass again.
    LoseAnswer,
    /// The request arrives, and the next response is replaced by etcd's "no space" in its JSON API; then they pass again.
    NoSpace,
}

const NO_SPACE: &str = r#"{"code":8,"message":"etcdserver: mvcc: database space exceeded"}"#;

/// A proxy to one address. It ends with the process.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    mode: Arc<AtomicU8>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), mode: Arc::default(), open: Arc::default() };
        let own = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(target) else { continue };
                own.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                if own.mode.load(Ordering::SeqCst) == Mode::Cut as u8 {
                    own.close();
                    continue;
                }
                let (there, back) = (own.clone(), own.clone());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || there.copy(from, to, false));
                thread::spawn(move || back.copy(server, client, true));
            }
        });
        proxy
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        if mode == Mode::Cut {
            self.close();
        }
    }

    /// Whether a response was swallowed since this was requested.
    pub fn passes(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == Mode::Pass as u8
    }

    /// Whether it was in this mode; from now on connections pass.
    fn was(&self, mode: Mode) -> bool {
        let pass = Mode::Pass as u8;
        self.mode.compare_exchange(mode as u8, pass, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn close(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if answers && self.was(Mode::LoseAnswer) {
                break;
            }
            if answers && self.was(Mode::NoSpace) {
                let head = format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: {}\r\n\r\n", NO_SPACE.len());
                let _ = to.write_all((head + NO_SPACE).as_bytes());
                break;
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
