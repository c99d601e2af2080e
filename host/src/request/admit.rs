//! Whether a key may have what it asks for: the model, and as much.

use super::read::Asked;
use super::resolve::Target;
use crate::accounts::{Admission, Estimate, Limited, cost};
use crate::config::Key;
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use http::StatusCode;
use std::time::Duration;

/// Tokens that an answer is taken to have where nobody sets a limit.
pub(super) const ANSWER: u32 = 512;

/// A 403 where the key does not have the model.
pub(super) fn may_have(gateway: &Gateway, key: &Key, target: &Target) -> Result<(), Refusal> {
    if key.allows(&target.model.id) {
        return Ok(());
    }
    gateway.accounts.of(&key.name).refused("model");
    let message =
        format!("the key {} may not use {}; it may use {}", key.name, target.model.id, key.models.join(", "));
    let refusal = Refusal::new(StatusCode::FORBIDDEN, "model_not_allowed", message);
    Err(Refusal { param: Some("model"), ..refusal })
}

/// Lets the request in, or says with a 429 which limit of its key it meets and when to come back.
pub(super) fn admit(
    gateway: &Gateway,
    key: &Key,
    asked: &Asked,
    target: &Target,
) -> Result<Admission, Refusal> {
    let estimate = estimate(asked, target);
    gateway.accounts.of(&key.name).admit(&key.limits, estimate).map_err(|limited| refusal(key, &limited))
}

/// At four bytes a token, and with an answer as long as it may be.
fn estimate(asked: &Asked, target: &Target) -> Estimate {
    let prompt_tokens = (asked.body.len() / 4) as u64;
    let output = target.model.limit.as_ref().map(|limit| limit.output).filter(|&most| most > 0);
    let wanted = u64::from(asked.max_tokens.unwrap_or(ANSWER));
    let completion_tokens = output.map_or(wanted, |most| wanted.min(most));
    let nano_usd = cost(target.model.cost.as_ref(), prompt_tokens, 0, completion_tokens);
    Estimate { prompt_tokens, completion_tokens, nano_usd }
}

fn refusal(key: &Key, limited: &Limited) -> Refusal {
    let code = match limited {
        Limited::Balance { wait: None, .. } => "insufficient_quota",
        _ => "rate_limit_exceeded",
    };
    let wait = limited.wait();
    let hint = match wait {
        Some(wait) => format!("try again in {} s", wait.as_secs().max(1)),
        None => "the operator can raise it, and a smaller max_tokens needs less".to_owned(),
    };
    let message = format!("the limit of the key {} is reached: {limited}; {hint}", key.name);
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, code, message);
    // Rounded up: whoever comes a moment too early is refused once more.
    let wait = wait.map(|wait| Duration::from_secs(wait.as_secs_f64().ceil() as u64));
    Refusal { retry_after: wait, ..refusal }
}
