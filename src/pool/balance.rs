//! How one of the backends is chosen: the settings.

/// The section `balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceSettings {
    /// How to choose among the eligible.
    pub method: Method,
    /// What keeps a client with its backend.
    pub persistence: Persistence,
    /// To how many backends one request may be sent, 1 to 10.
    pub tries: u32,
}

/// How to choose among the eligible backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// In turn, smooth and weighted.
    RoundRobin,
    /// Fewest exchanges in flight in proportion to weight.
    LeastConnections,
    /// The better of two at random.
    RandomTwo,
    /// The client's address decides.
    SourceHash,
}

/// What keeps a client with its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    None,
    /// The client's address.
    SourceAddress,
    /// A cookie.
    Cookie {
        /// The cookie's name, a token.
        name: String,
    },
}
