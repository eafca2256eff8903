//! The command `rondo`.

fn main() {}
