//! What the admin interface asks of the main thread, and how the answer comes back.
//!
//! The admin thread never waits for the main one: it leaves an [`Ask`] in [`Live`](crate::live::Live), goes on, and looks
//! for the reply when its waker is woken. One that is dropped unanswered is answered all the same: the process stops.
//!
//! Read next: `change.rs`, how the main thread answers.

use std::sync::{Arc, Mutex};

use crate::net::lock::lock;
use crate::net::waker::Waker;
use crate::pool::state::Operator;
use crate::text::json::Json;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// `POST /backends/NAME/drain`, `/enable`, `/disable`.
    Operator { name: String, operator: Operator },
    /// `PUT /backends/NAME`: the name of the path, and the body, an entry as in `backends`.
    Put { name: String, entry: Vec<u8> },
    /// `DELETE /backends/NAME`.
    Remove { name: String },
    /// `POST /reload`.
    Reload,
}

/// The answer: a status, and a JSON document as src/admin/documents.md describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub status: u16,
    pub body: String,
}

impl Reply {
    /// An answer of this document.
    #[inline(never)]
    pub(crate) fn new(status: u16, document: &Json) -> Reply {
        let body = document.to_string();
        Reply { status, body }
    }

    /// An error that has no place in a file or a body.
    pub(crate) fn error(status: u16, error: &str) -> Reply {
        Reply::error_at(status, error, (None, 0, 0))
    }

    /// An error, and where it is: the file if it is in one, line and column if they are not 0.
    #[inline(never)]
    pub(crate) fn error_at(
        status: u16,
        error: &str,
        (file, line, column): (Option<&str>, usize, usize),
    ) -> Reply {
        let number = |number: usize| {
            if number > 0 {
                Json::raw(number)
            } else {
                Json::raw("null")
            }
        };
        let document = Json::object([
            ("error", Json::text(error)),
            ("file", file.map_or_else(|| Json::raw("null"), Json::text)),
            ("line", number(line)),
            ("column", number(column)),
        ]);
        Reply::new(status, &document)
    }
}

/// Where the reply is put, and what is woken then.
#[derive(Debug)]
struct Slot {
    reply: Mutex<Option<Reply>>,
    waker: Arc<Waker>,
}

/// A wish on its way to the main thread.
#[derive(Debug)]
pub(crate) struct Ask {
    pub wish: Wish,
    /// Only say what it would do.
    pub dry_run: bool,
    slot: Option<Arc<Slot>>,
}

impl Ask {
    /// A wish, and the end at which its reply is taken. `waker` is woken when it is there.
    pub(crate) fn new(wish: Wish, dry_run: bool, waker: Arc<Waker>) -> (Ask, Asked) {
        let slot = Arc::new(Slot {
            reply: Mutex::default(),
            waker,
        });
        let ask = Ask {
            wish,
            dry_run,
            slot: Some(Arc::clone(&slot)),
        };
        (ask, Asked(slot))
    }

    /// Answers it.
    pub(crate) fn answer(mut self, reply: Reply) {
        self.put(reply);
    }

    fn put(&mut self, reply: Reply) {
        if let Some(slot) = self.slot.take() {
            *lock(&slot.reply) = Some(reply);
            slot.waker.wake();
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.put(Reply::error(503, "the process is stopping"));
        }
    }
}

/// The end at which the reply to an [`Ask`] is taken.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Slot>);

impl Asked {
    /// The reply, once it is there.
    pub(crate) fn take(&self) -> Option<Reply> {
        lock(&self.0.reply).take()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ask() -> (Ask, Asked, Arc<Waker>) {
        let waker = Arc::new(Waker::new().unwrap());
        let (ask, asked) = Ask::new(Wish::Reload, false, Arc::clone(&waker));
        (ask, asked, waker)
    }

    #[test]
    fn a_reply_comes_with_a_wake_up() {
        let (ask, asked, waker) = ask();
        assert_eq!(asked.take(), None);
        let reply = Reply::new(200, &Json::List(Vec::new()));
        ask.answer(reply.clone());
        // Would wait for an hour if it had not been woken.
        waker.wait(Duration::from_secs(3600));
        assert_eq!(asked.take(), Some(reply));
    }

    #[test]
    fn what_is_dropped_unanswered_is_answered_with_503() {
        let (ask, asked, waker) = ask();
        drop(ask);
        waker.wait(Duration::from_secs(3600));
        let reply = asked.take().unwrap();
        assert_eq!(reply.status, 503);
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let nowhere = serde_json::Value::Null;
        assert_eq!(
            body,
            serde_json::json!({"error": "the process is stopping", "file": nowhere, "line": nowhere, "column": nowhere})
        );
    }
}
