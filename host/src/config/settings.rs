//! Every setting in force, with where it came from.

use super::{overrides, raw};
use serde::Serialize;
use serde_json::Value;
use toml::Table;

/// One setting, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// As it is said in an error: `gateway.listen`, `neurons.beast.endpoint`.
    pub key: String,
    pub value: Value,
    pub from: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    Environment,
}

/// Keys whose values may be secrets, or tell of them.
const SECRET: [&str; 2] = ["sha256", "headers"];

/// `table`: what stands in cortex.toml.
pub(super) fn of(raw: &raw::File, table: &Table, vars: &[(String, String)]) -> Vec<Setting> {
    let set: Vec<String> = vars.iter().filter_map(|(name, _)| overrides::key_of(name)).collect();
    let mut settings = Vec::new();
    let Ok(Value::Object(sections)) = serde_json::to_value(raw) else { return settings };
    for (section, value) in sections {
        let given = table.get(&section);
        flatten(&section, value, given, &set, &mut settings);
    }
    settings
}

fn flatten(
    key: &str,
    value: Value,
    given: Option<&toml::Value>,
    set: &[String],
    settings: &mut Vec<Setting>,
) {
    let name = key.rsplit('.').next().unwrap_or(key);
    match value {
        Value::Object(fields) if !SECRET.contains(&name) => {
            for (field, value) in fields {
                let given = given.and_then(|given| given.get(&field));
                flatten(&format!("{key}.{field}"), value, given, set, settings);
            }
        }
        // [[neurons]] and their like have names.
        Value::Array(entries) if entries.iter().any(Value::is_object) => {
            for (place, entry) in entries.into_iter().enumerate() {
                let name = entry["name"].as_str().map_or_else(|| place.to_string(), str::to_owned);
                let given = given.and_then(|given| given.get(place));
                // Those that cortex.toml does not have are from a file that it names.
                let known = given.is_some();
                let first = settings.len();
                flatten(&format!("{key}.{name}"), entry, given, set, settings);
                settings[first..]
                    .iter_mut()
                    .filter(|_| !known)
                    .for_each(|setting| setting.from = Origin::File);
            }
        }
        // What is not said of one entry in a list is not worth a line.
        Value::Null if given.is_none() && key.matches('.').count() > 1 => {}
        value => {
            let from = match given {
                _ if set.iter().any(|set| set == key) => Origin::Environment,
                Some(_) => Origin::File,
                None => Origin::Default,
            };
            let value = match &value {
                Value::Null => value,
                _ if SECRET.contains(&name) => Value::from("not shown"),
                // A name and a password may stand before the host.
                Value::String(text) => match (text.find("://"), text.rfind('@')) {
                    (Some(scheme), Some(at)) if scheme < at => {
                        format!("{}://…{}", &text[..scheme], &text[at..]).into()
                    }
                    _ => value,
                },
                _ => value,
            };
            settings.push(Setting { key: key.to_owned(), value, from });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_where_it_came_from_and_secrets_are_not_shown() {
        let text = "[gateway]\nmax_waiting = 7\n[[upstreams]]\nname = \"vllm\"\nendpoint = \"http://h/v1\"\n\
                    headers = { authorization = \"Bearer hunter2\" }\n[telemetry]\notlp_endpoint = \"http://me:hunter2@h:1\"\n[[admin_keys]]\nname = \"ops\"\nsha256 = \"abc\"\nroles = [\"viewer\"]\n";
        let vars = [("CORTEX_GATEWAY__BODY_LIMIT_MB".to_owned(), "5".to_owned())];
        let raw = overrides::apply(
            toml::from_str(text).unwrap(),
            std::path::Path::new("c"),
            text,
            vars.iter().cloned(),
        );
        let settings = of(&raw.unwrap(), &text.parse().unwrap(), &vars);
        let find =
            |key: &str| settings.iter().find(|setting| setting.key == key).map(|s| (s.value.clone(), s.from));
        assert_eq!(find("gateway.max_waiting"), Some((7.into(), Origin::File)));
        assert_eq!(find("gateway.body_limit_mb"), Some((5.into(), Origin::Environment)));
        assert_eq!(find("routing.policy"), Some(("affinity".into(), Origin::Default)));
        assert_eq!(find("upstreams.vllm.endpoint"), Some(("http://h/v1".into(), Origin::File)));
        assert_eq!(find("telemetry.otlp_endpoint"), Some(("http://…@h:1".into(), Origin::File)));
        let all = serde_json::to_string(&settings).unwrap();
        assert!(!all.contains("hunter2") && !all.contains("abc"), "{all}");
    }
}
