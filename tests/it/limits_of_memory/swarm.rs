//! Many hostile peers at once: clients and backends that send as told, and read nothing unless told to.
//!
//! Their sockets are as small as the kernel makes them (and announce segments as small as on the worst of links), so that
//! what they do not read stays in the proxy and not in the kernel. One thread plays all of them, step by step; a step is
//! over when nothing moves any more.

use crate::support::{PATIENCE, Proxy};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What all peers of one side do next.
pub(super) enum Step {
    /// The clients send this.
    Clients(Vec<u8>),
    /// The backends send this, on every connection that the proxy has opened.
    Backends(Vec<u8>),
    /// From now on the backends read, and throw away what comes.
    BackendsRead,
}

/// All peers of one proxy; they leave when it is dropped.
pub(super) struct Swarm<'a> {
    listener: &'a TcpListener,
    clients: Vec<Peer>,
    backends: Vec<Peer>,
    backends_read: bool,
}

struct Peer {
    stream: TcpStream,
    unsent: Vec<u8>,
}

/// The smallest segments that Linux takes; they make the kernel's buffers small, too.
const SEGMENT_BYTES: u32 = 536;

fn small_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
    socket.set_recv_buffer_size(1).expect("it is rounded up");
    socket.set_send_buffer_size(1).expect("it is rounded up");
    socket.set_tcp_mss(SEGMENT_BYTES).expect("Linux takes it");
    socket
}

/// Where the backends of swarms listen.
pub(super) fn listen_with_little_room() -> TcpListener {
    let socket = small_socket();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&address.into()).expect("a free port");
    socket.listen(4096).expect("a bound socket listens");
    socket
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    socket.into()
}

impl Swarm<'_> {
    /// Backends behind `listener`, and no client yet.
    pub(super) fn over(listener: &TcpListener) -> Swarm<'_> {
        Swarm {
            listener,
            clients: Vec::new(),
            backends: Vec::new(),
            backends_read: false,
        }
    }

    /// Opens `count` connections and takes `steps` on them, each until nothing moves any more.
    pub(super) fn attack(&mut self, proxy: &Proxy, count: usize, steps: Vec<Step>) {
        for _ in 0..count {
            let socket = small_socket();
            socket
                .connect(&proxy.address().into())
                .expect("the proxy listens");
            self.clients.push(Peer::new(socket.into()));
        }
        self.settle(proxy);
        for step in steps {
            match step {
                Step::Clients(bytes) => queue(&mut self.clients, &bytes),
                Step::Backends(bytes) => queue(&mut self.backends, &bytes),
                Step::BackendsRead => self.backends_read = true,
            }
            self.settle(proxy);
        }
    }

    /// Moves bytes until neither side moves any, the proxy included.
    fn settle(&mut self, proxy: &Proxy) {
        const STILL: Duration = Duration::from_millis(100);
        let deadline = Instant::now() + PATIENCE;
        let (mut still_since, mut ticks) = (Instant::now(), proxy.cpu_ticks());
        while still_since.elapsed() < STILL {
            assert!(Instant::now() < deadline, "the swarm never comes to rest");
            let mut moved = false;
            while let Ok((stream, _)) = self.listener.accept() {
                self.backends.push(Peer::new(stream));
                moved = true;
            }
            for peer in &mut self.clients {
                moved |= peer.act(false);
            }
            for peer in &mut self.backends {
                moved |= peer.act(self.backends_read);
            }
            let now = proxy.cpu_ticks();
            if moved || now != ticks {
                (still_since, ticks) = (Instant::now(), now);
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn queue(peers: &mut [Peer], bytes: &[u8]) {
    for peer in peers {
        peer.unsent.extend_from_slice(bytes);
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        stream
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        stream.set_nodelay(true).expect("a TCP socket takes it");
        Peer {
            stream,
            unsent: Vec::new(),
        }
    }

    /// Sends and reads what it can now; whether anything moved.
    fn act(&mut self, reads: bool) -> bool {
        let mut moved = false;
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The proxy has closed it: that peer has done what it could.
                Err(_) => self.unsent.clear(),
            }
        }
        if reads {
            let mut buffer = [0; 16_384];
            while self.stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                moved = true;
            }
        }
        moved
    }
}
