//! `CORTEX_GATEWAY__LISTEN=…`: the environment over the file.

use super::{Address, ConfigError, explain, raw};
use std::path::Path;
use toml::{Table, Value};

const PREFIX: &str = "CORTEX_";
/// Sections that can be overridden; other `CORTEX_*` variables mean something else.
const SECTIONS: [&str; 5] = ["gateway", "policies", "routing", "eviction", "telemetry"];

/// The file with the environment's values in it. `text` has parsed already.
pub(super) fn apply(
    raw: raw::File,
    path: &Path,
    text: &str,
    vars: impl Iterator<Item = (String, String)>,
) -> Result<raw::File, ConfigError> {
    let mut overrides: Vec<(String, String)> = vars.filter(|(name, _)| is_override(name)).collect();
    if overrides.is_empty() {
        return Ok(raw);
    }
    overrides.sort();
    let mut table: Table = explain::parse(path, text)?;
    for (name, value) in &overrides {
        insert(&mut table, name, value);
        // Tried one by one, so that an error names its variable.
        table.clone().try_into::<raw::File>().map_err(|e| {
            let said = format!("the environment variable {name}={value:?}: {}", e.message());
            ConfigError::says(path, said)
        })?;
    }
    table.try_into().map_err(|e: toml::de::Error| ConfigError::says(path, e.message()))
}

/// `gateway.admin_listen` alone. Whoever asks a running gateway has not its secrets, and may be looking for
/// the very mistake in its file.
///
/// And whether it speaks TLS.
pub(super) fn admin_listen(
    path: &Path,
    mut vars: impl Iterator<Item = (String, String)>,
) -> Result<(Address, bool), ConfigError> {
    const NAME: &str = "CORTEX_GATEWAY__ADMIN_LISTEN";
    let says = |e: &dyn std::fmt::Display| ConfigError::says(path, format!("gateway.admin_listen: {e}"));
    if let Some((_, value)) = vars.find(|(name, _)| name == NAME) {
        let address: Result<Address, _> = value.parse();
        let address = address.map_err(|e| ConfigError::says(path, format!("{NAME}={value:?}: {e}")))?;
        return Ok((address, false));
    }
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::main_file(path, &e))?;
    let table: Table = explain::parse(path, &text)?;
    let tls = table.get("gateway").and_then(|gateway| gateway.get("tls")?.get("admin")?.as_bool());
    let address = match table.get("gateway").and_then(|gateway| gateway.get("admin_listen")) {
        None => raw::Gateway::default().admin_listen,
        Some(Value::String(address)) => address.parse().map_err(|e| says(&e))?,
        Some(other) => return Err(says(&format!("{other} is not an address"))),
    };
    Ok((address, tls.unwrap_or(false)))
}

/// The setting that the variable is for, as files name it.
pub(super) fn key_of(name: &str) -> Option<String> {
    is_override(name).then(|| name[PREFIX.len()..].replace("__", ".").to_lowercase())
}

fn is_override(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__"));
    rest.is_some_and(|(section, _)| SECTIONS.contains(&section.to_lowercase().as_str()))
}

fn insert(table: &mut Table, name: &str, value: &str) {
    let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
    let Some((key, sections)) = path.split_last() else { return };
    let mut at = table;
    for section in sections {
        let next = at.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { return };
        at = next;
    }
    at.insert(key.clone(), scalar(value));
}

/// A TOML value where it is one (`true`, `3`, `["a"]`), else a string.
fn scalar(value: &str) -> Value {
    let wrapped: Result<Table, _> = format!("v = {value}").parse();
    wrapped.ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(value.to_owned()))
}
