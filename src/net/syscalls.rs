//! The system calls that open a connection and move bytes. A test can make them fail.

#[cfg(not(test))]
pub(crate) use rustix::{
    io::writev,
    net::{connect, recv, send},
    pipe::splice,
};

#[cfg(test)]
pub(crate) use failing::{connect, recv, send, splice, writev};

#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;
    use std::io::IoSlice;
    use std::net::{SocketAddr, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::{Errno, Result};
    use rustix::net::{RecvFlags, SendFlags};
    use rustix::pipe::SpliceFlags;

    /// What fails.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Call {
        Connect,
        Send,
        Receive,
    }

    thread_local! {
        /// The next such call of this thread on a socket of this peer fails, once.
        static NEXT: Cell<Option<(SocketAddr, Call, Errno)>> = const { Cell::new(None) };
    }

    /// Makes the next `call` of this thread on a connection to `peer` fail.
    pub(crate) fn fail_next(peer: SocketAddr, call: Call, errno: Errno) {
        NEXT.set(Some((peer, call, errno)));
    }

    /// Whether what was asked for has come about.
    pub(crate) fn has_failed() -> bool {
        NEXT.get().is_none()
    }

    fn check(peer: Option<SocketAddr>, call: Call) -> Result<()> {
        match NEXT.get() {
            Some((failing, what, errno)) if Some(failing) == peer && what == call => {
                NEXT.set(None);
                Err(errno)
            }
            _ => Ok(()),
        }
    }

    fn peer(socket: impl AsFd) -> Option<SocketAddr> {
        rustix::net::getpeername(socket).ok()??.try_into().ok()
    }

    pub(crate) fn connect(socket: &OwnedFd, address: &SocketAddr) -> Result<()> {
        check(Some(*address), Call::Connect)?;
        rustix::net::connect(socket, address)
    }

    pub(crate) fn recv(
        stream: &TcpStream,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> Result<(usize, usize)> {
        check(peer(stream), Call::Receive)?;
        rustix::net::recv(stream, buffer, flags)
    }

    pub(crate) fn send(stream: &TcpStream, bytes: &[u8], flags: SendFlags) -> Result<usize> {
        check(peer(stream), Call::Send)?;
        rustix::net::send(stream, bytes, flags)
    }

    pub(crate) fn writev(stream: &TcpStream, parts: &[IoSlice<'_>]) -> Result<usize> {
        check(peer(stream), Call::Send)?;
        rustix::io::writev(stream, parts)
    }

    pub(crate) fn splice(
        from: impl AsFd,
        from_at: Option<&mut u64>,
        into: impl AsFd,
        into_at: Option<&mut u64>,
        length: usize,
        flags: SpliceFlags,
    ) -> Result<usize> {
        check(peer(&from), Call::Receive)?;
        check(peer(&into), Call::Send)?;
        rustix::pipe::splice(from, from_at, into, into_at, length, flags)
    }
}
