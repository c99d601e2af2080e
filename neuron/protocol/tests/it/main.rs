//! The wire format, fixed: golden files against types.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod golden;
