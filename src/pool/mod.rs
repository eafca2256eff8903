//! Which backend takes a request: the settings of the backends, of the choice among them and of their checks.

pub mod backend;
pub mod balance;
pub mod probe;
