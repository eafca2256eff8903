//! The codes of a record: how backends stood, why one was chosen, how a try ended, what took time.

use crate::pool::settings::Method;

/// How a backend stood at the last choice of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// It could have been chosen.
    #[default]
    Eligible,
    /// It was chosen.
    Chosen,
    /// It was tried already.
    Tried,
    /// It had as many exchanges as it may have.
    Full,
    /// By hash it could take no more: `load_percent_max` of its share.
    AtBound,
    /// It is down.
    Down,
    /// It answered badly and is out for a time.
    Ejected,
    /// It is a backup, and other backends are up.
    Backup,
    /// Its weight is 0.
    Weightless,
    /// An operator drains it.
    Draining,
    /// An operator disabled it.
    Disabled,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; Verdict::COUNT] = [
        Verdict::Eligible,
        Verdict::Chosen,
        Verdict::Tried,
        Verdict::Full,
        Verdict::AtBound,
        Verdict::Down,
        Verdict::Ejected,
        Verdict::Backup,
        Verdict::Weightless,
        Verdict::Draining,
        Verdict::Disabled,
    ];

    /// How many there are.
    pub const COUNT: usize = 11;

    /// Whether it is for the state of the backend only, which a request may use.
    pub(in crate::pool) fn may_be_tried(self) -> bool {
        !matches!(
            self,
            Verdict::Weightless | Verdict::Draining | Verdict::Disabled
        )
    }

    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Eligible => "eligible",
            Verdict::Chosen => "chosen",
            Verdict::Tried => "tried already",
            Verdict::Full => "full",
            Verdict::AtBound => "at its bound",
            Verdict::Down => "down",
            Verdict::Ejected => "ejected",
            Verdict::Backup => "backup",
            Verdict::Weightless => "weight 0",
            Verdict::Draining => "draining",
            Verdict::Disabled => "disabled",
        }
    }
}

/// The rule by which a backend was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The balancing method.
    Method(Method),
    /// It was not chosen for long, and `fastest` must know how fast it is.
    Due,
    /// The method is by hash, and those before it are at their bounds.
    NextByHash,
    /// The client's cookie is bound to it.
    Cookie,
    /// No backend was healthy: the unhealthy ones in turn.
    FailOpen,
    /// The same backend again, on a fresh connection.
    SameAgain,
    /// Many had failed: the next backend in the list.
    NextInList,
    /// All were full, and it had the first free place.
    FreePlace,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule::Method(Method::RoundRobin)
    }
}

impl Rule {
    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Rule::Method(method) => method.reason(),
            Rule::Due => "not chosen in the last 10 s",
            Rule::NextByHash => "the next by hash",
            Rule::Cookie => "the client's cookie",
            Rule::FailOpen => "none is healthy: each in turn",
            Rule::SameAgain => "the same again, on a fresh connection",
            Rule::NextInList => "many failed: the next in the list",
            Rule::FreePlace => "the first with a free place",
        }
    }
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Nothing yet.
    #[default]
    Pending,
    /// A response head with this status arrived.
    Answered(u16),
    /// It refused the connection or was unreachable.
    ConnectFailed,
    /// The connection was not opened in time.
    ConnectTimedOut,
    /// A fresh connection ended before a response head.
    Died,
    /// A reused connection had been closed.
    ReusedEnded,
    /// No response head in time.
    HeadTimedOut,
    /// Its response head cannot be forwarded; the reason of the record says why.
    RefusedHead,
    /// What came instead of a response head is no HTTP.
    NotHttp,
    /// Its response broke off after it had begun.
    BrokeOff,
    /// The client was gone first.
    ClientGone,
    /// This process was short of descriptors, ports or memory.
    OurShortage,
}

impl Outcome {
    /// For a reader; a status is to be added to `Answered`.
    pub fn text(self) -> &'static str {
        match self {
            Outcome::Pending => "no outcome yet",
            Outcome::Answered(_) => "answered",
            Outcome::ConnectFailed => "connect failed",
            Outcome::ConnectTimedOut => "connect timed out",
            Outcome::Died => "ended before it answered",
            Outcome::ReusedEnded => "the reused connection had ended",
            Outcome::HeadTimedOut => "no response head in time",
            Outcome::RefusedHead => "its response head cannot be forwarded",
            Outcome::NotHttp => "its answer is not HTTP",
            Outcome::BrokeOff => "its answer broke off",
            Outcome::ClientGone => "the client was gone",
            Outcome::OurShortage => "we were short of descriptors, ports or memory",
        }
    }
}

/// The stages whose time is recorded, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's first byte to the end of its head.
    RequestHead,
    /// In the queue, waiting for a place at a backend.
    Queued,
    /// From the first choice to a connection that carried the request, without the time in the queue.
    Connecting,
    /// From there to the response head.
    ResponseHead,
    /// From there to the end of the response.
    ResponseBody,
    /// All of it.
    Total,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 6] = [
        Stage::RequestHead,
        Stage::Queued,
        Stage::Connecting,
        Stage::ResponseHead,
        Stage::ResponseBody,
        Stage::Total,
    ];

    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Stage::RequestHead => "request head",
            Stage::Queued => "queued",
            Stage::Connecting => "connecting",
            Stage::ResponseHead => "response head",
            Stage::ResponseBody => "response body",
            Stage::Total => "total",
        }
    }
}
