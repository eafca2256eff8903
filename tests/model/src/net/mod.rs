//! The program's files, over types that the model checker knows.
//!
//! `sync`, `lock` and `waker` stand in for the program's files of the same names.

#[path = "../../../../src/net/admission.rs"]
pub(crate) mod admission;
#[path = "../../../../src/net/bell.rs"]
pub(crate) mod bell;
#[path = "../../../../src/net/clock.rs"]
pub(crate) mod clock;
#[path = "../../../../src/net/mailbox.rs"]
pub(crate) mod mailbox;
#[path = "../../../../src/net/published.rs"]
pub(crate) mod published;

pub(crate) mod lock;
pub(crate) mod sync;
pub(crate) mod waker;
