//! `Lingering`: our side is closed, and what the client still sends is discarded; unread, it would
//! make the kernel send a reset that destroys our answer (RFC 9112 9.6).

use std::time::Duration;

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::net::clock::{Clock, Millis};
use crate::net::connection::{Connection, Received};

/// How long, and for how many bytes, a client may go on sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: u32 = 1024 * 1024;

/// A connection that lingers.
#[derive(Debug)]
pub(super) struct Lingering {
    /// When to give up.
    pub(super) until: Millis,
    /// Bytes that may still be discarded.
    left: u32,
}

impl Lingering {
    /// Closes our side and waits for the client's.
    pub(super) fn begin(client: &mut Connection, now: Millis) -> Self {
        client.shutdown_write();
        let buffered = client.buffered().len();
        client.consume_buffered(buffered);
        Self {
            until: Clock::after(now, LINGER),
            left: LINGER_BYTES_MAX,
        }
    }

    /// Discards what the client sends. `Some`: the connection is over.
    pub(super) fn advance(
        &mut self,
        client: &mut Connection,
        cx: &mut Context,
    ) -> Option<CloseReason> {
        loop {
            match client.receive(&mut cx.buffers.scratch, 0) {
                Ok(Received::Bytes(bytes)) => {
                    let count = bytes.len();
                    client.consume(count, &cx.buffers.scratch);
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    if count >= self.left {
                        return Some(CloseReason::LingerTimeout);
                    }
                    self.left -= count;
                }
                Ok(Received::Wait) => return None,
                Ok(Received::End) | Err(_) => return Some(CloseReason::Finished),
            }
        }
    }
}
