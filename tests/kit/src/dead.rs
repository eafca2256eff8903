//! Two kinds of dead backends, and the port that a backend holds while it does not listen.

use crate::backend::Addressed;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// A port that is held, so that no other process gets it, and refuses every connection.
pub struct Refusing {
    socket: Socket,
}

impl Refusing {
    pub fn start() -> Refusing {
        Refusing {
            socket: hold_port(),
        }
    }
}

impl Addressed for Refusing {
    fn address(&self) -> SocketAddr {
        address_of(&self.socket)
    }
}

/// A port where connecting hangs: the kernel drops what it has no room for.
pub struct Unreachable {
    listener: Socket,
    _filling: Vec<TcpStream>,
}

impl Unreachable {
    pub fn start() -> Unreachable {
        let listener = hold_port();
        listener.listen(0).expect("a bound socket listens");
        let address = address_of(&listener);
        let filling = (0..2)
            .map_while(|_| {
                TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100)).ok()
            })
            .collect();
        Unreachable {
            listener,
            _filling: filling,
        }
    }
}

impl Addressed for Unreachable {
    fn address(&self) -> SocketAddr {
        address_of(&self.listener)
    }
}

/// A socket bound to a port of its own that does not listen. The port stays held while the socket lives, listening or not:
/// Linux lets go of a port at `shutdown` only when it was picked by itself, so it is asked for by number here.
pub(crate) fn hold_port() -> Socket {
    let bind = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
        socket
            .set_reuse_address(true)
            .expect("a TCP socket takes SO_REUSEADDR");
        socket
            .bind(&SockAddr::from(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                port,
            ))))
            .expect("the port is ours");
        socket
    };
    let picked = bind(0);
    bind(address_of(&picked).port())
}

pub(crate) fn address_of(socket: &Socket) -> SocketAddr {
    socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .expect("a bound socket has an address")
}
