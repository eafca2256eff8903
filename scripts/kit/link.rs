//! Cargo's build script: how the static binary is linked.

use std::process::Command;

/// The first compiler whose musl reads relative relocations in packed form (1.2.4 and later does).
/// With an older one the program would crash at its start.
const FIRST_MINOR: u32 = 93;

fn main() {
    println!("cargo::rerun-if-changed=scripts/kit/link.rs");
    let is_musl = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl");
    if is_musl && compiler_minor().is_some_and(|minor| minor >= FIRST_MINOR) {
        // A position-independent program has a relocation for each pointer in its data: 24 bytes,
        // packed 1 bit.
        for argument in ["-z", "pack-relative-relocs"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

/// The second number of the compiler's version, as in `rustc 1.93.0 (...)`.
fn compiler_minor() -> Option<u32> {
    let output = Command::new(std::env::var_os("RUSTC")?)
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split('.').nth(1)?.parse().ok()
}
