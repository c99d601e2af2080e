//! Server-sent events as a client reads them.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};

/// The data of each event, but for the mark at the end. An event that tells of an error is one.
pub(crate) fn events(stream: impl Read, mut each: impl FnMut(Value) -> Result<()>) -> Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let event: Value =
            serde_json::from_str(data).with_context(|| format!("an event that is not JSON: {data}"))?;
        if !event["error"].is_null() {
            bail!("the stream broke off: {event}");
        }
        each(event)?;
    }
    Ok(())
}
