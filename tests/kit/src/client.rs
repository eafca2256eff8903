//! A client that sends exactly the bytes that the test gives it.

use crate::backend::Addressed;
use crate::wire::{Response, Wire};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};

/// A connection to the proxy; everything else it can do is `Wire`'s.
pub struct Client(Wire);

impl Client {
    #[track_caller]
    pub fn connect(proxy: &impl Addressed) -> Client {
        Client::connect_to(proxy.address())
    }

    #[track_caller]
    pub fn connect_to(address: SocketAddr) -> Client {
        Client(Wire::new(
            TcpStream::connect(address).expect("the proxy listens"),
        ))
    }

    /// As a client with the address 127.0.0.`last`: all of 127.0.0.0/8 is this machine.
    #[track_caller]
    pub fn connect_as(proxy: &impl Addressed, last: u8) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
        let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
        socket
            .bind(&source.into())
            .expect("loopback takes the address");
        socket
            .connect(&proxy.address().into())
            .expect("the proxy listens");
        Client(Wire::new(socket.into()))
    }

    /// One GET on this connection and its answer.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.send(get(target));
        self.read_response()
    }

    /// One POST with a body of known length and its answer.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: impl AsRef<[u8]>) -> Response {
        self.send(post(target, body.as_ref()));
        self.read_response()
    }

    pub fn reset(self) {
        self.0.reset();
    }

    pub fn close(self) {
        drop(self);
    }
}

impl Deref for Client {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}

/// The bytes of a plain GET.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: example.test\r\n\r\n")
}

/// The bytes of a POST with `body`.
pub fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {target} HTTP/1.1\r\nHost: example.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
