//! What the shell is told.

use super::target::Answered;
use crate::upstream::UpstreamError;

/// For `--help` and the manual.
pub(super) const CODES: &str = "Exit status:
  0  it was done
  1  it failed, or was refused
  2  the command line is wrong
  3  the gateway does not answer
  4  the gateway does not know the admin key, or it may not do this";

pub(super) const NO_ANSWER: u8 = 3;

/// What programs read of an error of [`super::run`].
pub fn as_json(error: &anyhow::Error) -> serde_json::Value {
    serde_json::json!({"error": {"message": format!("{error:#}"), "exit_status": code(error)}})
}

/// The exit status for an error of [`super::run`].
pub fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<UpstreamError>()) {
        return NO_ANSWER;
    }
    match error.downcast_ref::<Answered>() {
        Some(answered) if matches!(answered.status.as_u16(), 401 | 403 | 429) => 4,
        _ => 1,
    }
}
