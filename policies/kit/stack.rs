//! Build script of policies. A stack of 32 KiB: with data and heap behind it, what a call touches lies in the
//! first 64 KiB of memory, which the host keeps at hand for the next instance. Rust's own is 1 MiB.

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_CFG_TARGET_FAMILY");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size=32768");
    }
}
