//! A socket that gives up on clients that do not read.

use crate::{pace::MinimumRate, patience::Patience, places::Connection};
use socket2::SockRef;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The kernel accepts more data when less than half of this many bytes are unsent, and at most [`AT_ONCE`] more. Both
/// are so small that the slowest client that is fast enough takes that much within the usual stall.
const UNSENT: u32 = 8 * 1024;
/// How many bytes are written at a time: as much as a TLS record holds.
const AT_ONCE: usize = 16 * 1024;

/// A TCP connection of a client. Writing fails when the client reads too slowly, and the socket tracks who waits for
/// whom.
pub(crate) struct Socket {
    stream: TcpStream,
    connection: Connection,
    patience: Patience,
    /// Unsent data is worthless.
    abort: bool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, connection: Connection, rate: MinimumRate) -> Self {
        let socket = SockRef::from(&stream);
        // Without the first, a small response may wait for the acknowledgement of the previous one. The others bound
        // what the kernel buffers, and for how long, for a client that reads nothing. A response is correct without any
        // of them.
        let _ = stream.set_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let _ = socket.set_tcp_user_timeout(Some(rate.stall + Duration::from_secs(1)));
        Self { stream, connection, patience: Patience::new(rate), abort: false }
    }

    /// Handles the result of an attempt to write.
    fn wrote(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.patience.passed(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.patience.poll_too_slow(&self.connection, context));
                self.abort = true;
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes the answer too slowly")))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.abort || self.connection.entry().is_taken() {
            // Otherwise the kernel would keep unread data for minutes.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, &bytes[..bytes.len().min(AT_ONCE)]);
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bytes.iter().map(|slice| slice.len()).sum::<usize>() > AT_ONCE {
            let first = bytes.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(context, first);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
