//! cortex: one address in front of a fleet of GPU machines that serve language models.

pub mod accounts;
pub mod admin;
pub mod cli;
pub mod config;
mod console;
pub mod decide;
pub mod facts;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod metrics;
mod net;
pub mod policy;
pub mod refusal;
pub mod request;
pub mod server;
mod sse;
pub mod telemetry;
mod traffic;
pub mod upstream;
pub mod watch;
