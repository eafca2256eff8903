//! `Lingering`: our side is closed, and what the client still sends is thrown away.

use crate::exchange::Client;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::state::{Stage, Step};
use crate::net::connection::Received;

impl Client {
    /// Throws away what the client sends.
    pub(super) fn linger(&mut self, until: u64, mut left: u32, cx: &mut Context) -> Step {
        loop {
            match self.connection.receive(&mut cx.tools.scratch) {
                Ok(Received::Bytes(bytes)) => {
                    let count = bytes.len();
                    self.connection.consume(count, &cx.tools.scratch);
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    if count >= left {
                        return Step::Close(CloseReason::LingerTimeout);
                    }
                    left -= count;
                }
                Ok(Received::Wait) => {
                    self.stage = Stage::LingeringClose { until, left };
                    return Step::Wait;
                }
                Ok(Received::End) | Err(_) => return Step::Close(CloseReason::Finished),
            }
        }
    }
}
