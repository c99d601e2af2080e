//! neuron from outside: real sockets, the real model, no network beyond loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod auth;
mod bad_files;
mod chat;
mod choices;
mod completions;
mod devices;
mod download;
mod eight_bits;
mod embeddings;
mod estimate;
mod folders;
mod foreign_bytes;
mod forward;
mod gpu;
mod greedy;
mod hub;
mod lifecycle;
mod meta;
mod process;
mod queue;
mod reasoning;
mod references;
mod refusals;
mod registry;
mod renderings;
mod shutdown;
mod single;
mod structured;
mod template;
mod tokenize;
mod tokenizer;
mod tools;
mod watch;
