//! cortex as its clients and operators meet it: real sockets, real WebAssembly, real processes.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

mod admin;
mod assumed;
mod attacks;
mod beside;
mod bodies;
mod breaker;
mod browser;
mod browser_fleets;
mod cold;
mod commands;
mod conformance;
mod console;
mod dialects;
mod docs;
mod evict;
mod explain;
mod faults;
mod fleet;
mod foreign;
mod frozen;
mod gate;
mod handover;
mod http2;
mod keys;
mod pair;
mod rawnodes;
mod reload;
mod requests;
mod restarts;
mod samples;
mod scripted;
mod shutdown;
mod simulation;
mod streams;
mod swaps;
mod tls;
mod two;
mod upstream;
mod upstreams;
