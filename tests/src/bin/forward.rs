//! Forwards connections from a port of one kernel to a port of another over one stream of bytes: a serial line of a
//! user-mode kernel, or a pair of pipes. `tests/demo --keep` uses it to show the console in the machine's browser.
//!
//! ```text
//! forward listen 127.0.0.1:0 IN OUT        on the machine: says where it listens, and takes connections
//! forward connect 10.0.0.1:7400 IN OUT     where the server is: makes them
//! ```
//!
//! A frame is the connection's number and the length of what follows, each 32 bits, big-endian; an empty one ends the
//! connection. Each is acknowledged before the next is sent: the buffers of a user-mode kernel's lines are small, and a
//! line whose buffers were full may stall. The side that connects sends [`READY`] first: whatever the line carried
//! before is skipped.

use anyhow::{Context, Result, bail};
use std::{
    collections::HashMap,
    env,
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

const READY: &[u8] = b"\0cps-peering forward\0";
/// The longest content of a frame, in bytes: lines have small buffers.
const LONGEST: usize = 2048;

/// The number of a frame that acknowledges another.
const TAKEN: u32 = u32::MAX;

type Connections = Mutex<HashMap<u32, TcpStream>>;

/// One end of the stream.
struct Line {
    out: Mutex<File>,
    /// Whether a frame is in flight.
    under_way: Mutex<bool>,
    taken: Condvar,
    connections: Connections,
}

impl Line {
    /// Sends a frame once the previous one was acknowledged. Not for the thread that receives frames: it would wait for
    /// itself.
    fn send(&self, number: u32, content: &[u8]) -> Result<()> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let mut under_way =
            self.taken.wait_while(under_way, |under_way| *under_way).unwrap_or_else(PoisonError::into_inner);
        self.write(number, content)?;
        *under_way = true;
        Ok(())
    }

    /// The frame in flight was acknowledged.
    fn was_taken(&self) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.taken.notify_one();
    }

    fn write(&self, number: u32, content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len())?;
        let frame = [&number.to_be_bytes(), &length.to_be_bytes(), content].concat();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&frame)?;
        Ok(out.flush()?)
    }

    fn of(&self, number: u32) -> Option<TcpStream> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.get(&number).and_then(|stream| stream.try_clone().ok())
    }

    /// Forwards what comes from a connection until it ends.
    fn carry(self: &Arc<Self>, number: u32, mut stream: TcpStream) -> Result<()> {
        let kept = stream.try_clone()?;
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, kept);
        let line = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; LONGEST];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if line.send(number, &buffer[..length]).is_err() {
                    return;
                }
            }
            if line.end(number) {
                let _ = line.send(number, &[]);
            }
        });
        Ok(())
    }

    /// Ends a connection. Returns whether it existed.
    fn end(&self, number: u32) -> bool {
        let gone = self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        // One that the other end has closed already is gone, too.
        gone.inspect(|stream| drop(stream.shutdown(Shutdown::Both))).is_some()
    }
}

fn number(from: &mut impl Read) -> Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Receives frames and passes their content on. A new connection is opened by `make`, if that can.
fn distribute(line: &Arc<Line>, mut from: File, make: impl Fn() -> Option<TcpStream>) -> Result<()> {
    loop {
        let (id, length) = (number(&mut from)?, usize::try_from(number(&mut from)?)?);
        if length > LONGEST {
            bail!("a frame of {length} bytes: the line has lost some");
        }
        if id == TAKEN {
            line.was_taken();
            continue;
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        line.write(TAKEN, &[])?;
        if content.is_empty() {
            line.end(id);
            continue;
        }
        if line.of(id).is_none()
            && let Some(stream) = make()
        {
            line.carry(id, stream)?;
        }
        let passed = line.of(id).is_some_and(|mut stream| stream.write_all(&content).is_ok());
        if !passed {
            line.end(id);
            let line = Arc::clone(line);
            thread::spawn(move || line.send(id, &[]));
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [role, address, from, out] = arguments.as_slice() else {
        bail!("usage: forward listen|connect ADDRESS:PORT IN OUT");
    };
    let open = |path: &str, write: bool| {
        OpenOptions::new().read(!write).write(write).open(path).with_context(|| path.to_owned())
    };
    let (mut from, out) = (open(from, false)?, open(out, true)?);
    let line = Arc::new(Line {
        out: Mutex::new(out),
        under_way: Mutex::new(false),
        taken: Condvar::new(),
        connections: Mutex::default(),
    });
    if role == "connect" {
        line.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(READY)?;
        return distribute(&line, from, || TcpStream::connect(address).ok());
    }
    let listener = TcpListener::bind(address).with_context(|| address.clone())?;
    // Early connections wait in the kernel's queue.
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let mut seen = Vec::new();
    while !seen.ends_with(READY) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    let taken = Arc::clone(&line);
    thread::spawn(move || {
        for (id, stream) in (0..).zip(listener.incoming().flatten()) {
            if let Err(error) = taken.carry(id, stream) {
                let _ = writeln!(std::io::stderr(), "forward: {error:#}");
            }
        }
    });
    distribute(&line, from, || None)
}
