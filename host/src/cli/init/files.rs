//! The files, of the commented examples and what was found.

use super::Answers;
use super::look::Found;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const CORTEX: &str = include_str!("../../../../packaging/cortex.example.toml");
const MODELS: &str = include_str!("../../../../packaging/models.example.toml");

/// The example's settings, and in the place of its neuron the ones that were found.
pub(super) fn cortex(answers: &Answers) -> String {
    let mut out = String::new();
    let (settings, rest) = CORTEX.split_once("[[neurons]]").unwrap_or((CORTEX, ""));
    for line in settings.lines() {
        let key = line.split(['=', ' ']).next().unwrap_or_default();
        let set = |value: &str| {
            let comment = line.find(" #").map_or("", |at| line[at..].trim_start());
            format!("{:<34} {comment}", format!("{key} = {value}")).trim_end().to_owned()
        };
        let line = match key {
            "listen" => set(&quoted(&answers.listen)),
            "admin_listen" => set(&quoted(&answers.admin_listen)),
            "models" => set("\"models.toml\""),
            "dirs" if !answers.policies.is_empty() => {
                let dirs = answers.policies.iter().map(|dir| quoted(&dir.to_string_lossy()));
                set(&format!("[{}]", dirs.collect::<Vec<_>>().join(", ")))
            }
            _ => line.to_owned(),
        };
        out += &(line + "\n");
    }
    let token = answers.token_env.as_ref().map(|name| format!("token_env = {}\n", quoted(name)));
    for found in &answers.found {
        let said = found
            .error
            .as_ref()
            .map_or_else(|| found.devices.join(", "), |error| format!("{error} when this was written"));
        // Writing to a String cannot fail.
        let _infallible = write!(
            out,
            "# {}\n[[neurons]]\nname = {}\nendpoint = {}\n{}\n",
            said.replace(char::is_control, " "),
            quoted(&found.name),
            quoted(&found.endpoint),
            token.as_deref().unwrap_or_default(),
        );
    }
    // What else may stand there, as comments.
    let more = rest.find("# token_env").map_or("", |at| &rest[at..]);
    out += more;
    let keys = [
        ("admin_keys", "operators", &answers.admin_key, "roles = [\"operator\", \"policy-upload\"]\n"),
        ("keys", "clients", &answers.client_key, ""),
    ];
    for (table, name, key, more) in keys {
        if let Some(key) = key {
            let digest: String =
                crate::config::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let _infallible = write!(out, "\n[[{table}]]\nname = {name:?}\nsha256 = \"{digest}\"\n{more}");
        }
    }
    out
}

/// The models that the neurons have; without any, the example's.
pub(super) fn models(found: &[Found]) -> String {
    let mut largest: BTreeMap<(Option<&str>, &str), u64> = BTreeMap::new();
    for info in found.iter().flat_map(|found| &found.models) {
        let (source, id) = match info.id.split_once(':') {
            Some((source, id)) => (Some(source), id),
            None => (None, info.id.as_str()),
        };
        if neuron_protocol::model_id::ModelId::parse(id).is_ok() {
            let mb = largest.entry((source, id)).or_default();
            *mb = (*mb).max(info.vram_used_mb.unwrap_or(0));
        }
    }
    if largest.is_empty() {
        return MODELS.to_owned();
    }
    let mut out =
        "# The catalogue: what clients may ask for. These were there when cortex init looked.\n".to_owned();
    let mut seen = std::collections::BTreeSet::new();
    for ((source, id), mb) in largest {
        if !seen.insert(id) {
            continue;
        }
        let _infallible = write!(out, "\n[[models]]\nid = {}\n", quoted(id));
        if let Some(source) = source {
            let _infallible = writeln!(out, "source = {}", quoted(source));
        }
        if mb > 0 {
            let _infallible = writeln!(out, "vram_mb = {mb}");
        }
    }
    // What else a model may say: the example's words, as comments.
    let more = MODELS.lines().filter(|line| line.starts_with("# ") && line.contains(" = "));
    out += "\n# More that a model may say:\n";
    more.for_each(|line| out += &format!("{line}\n"));
    out += "\n# [aliases]\n# short = \"org/a-long-name\"\n";
    out
}

/// As a string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use neuron_protocol::ModelInfo;

    fn found(name: &str, models: &[&str]) -> Found {
        let model =
            |id: &&str| ModelInfo { id: (*id).into(), vram_used_mb: Some(400), ..ModelInfo::default() };
        Found {
            name: name.into(),
            endpoint: format!("http://{name}:13131"),
            devices: vec!["NVIDIA \"H200\"\nwith 1 MiB".into()],
            models: models.iter().map(model).collect(),
            error: None,
            ..Found::default()
        }
    }

    #[test]
    fn what_is_written_is_what_the_gateway_takes() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers {
            listen: "127.0.0.1:9001".into(),
            admin_listen: "127.0.0.1:9002".into(),
            policies: vec![dir.path().join("policies")],
            found: vec![
                found("a", &["huggingface:o/m", "o/n"]),
                Found { error: Some("not reachable".into()), ..found("b", &["o/m", "no id at all"]) },
            ],
            token_env: None,
            client_key: Some("client".into()),
            admin_key: Some("admin".into()),
        };
        std::fs::write(dir.path().join("cortex.toml"), cortex(&answers)).unwrap();
        std::fs::write(dir.path().join("models.toml"), models(&answers.found)).unwrap();
        let config = Config::load(&dir.path().join("cortex.toml")).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9001");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9002");
        assert_eq!(
            config.nodes.iter().map(|n| n.access.endpoint.as_str()).collect::<Vec<_>>(),
            ["http://a:13131", "http://b:13131"]
        );
        assert_eq!(config.catalogue.models().map(|m| m.node_id()).collect::<Vec<_>>(), ["o/m", "o/n"]);
        assert_eq!(config.policies.dirs, [dir.path().join("policies")]);
        assert_eq!(config.keys.of(b"client").unwrap().name, "clients");
        assert!(!config.admin_keys.is_empty());
        // Every setting is there with its comment.
        let text = cortex(&answers);
        let is_found = |line: &&str| line.starts_with("name = ") || line.starts_with("endpoint = ");
        for line in CORTEX.lines().filter(|line| line.contains(" # ") && !is_found(line)) {
            let comment = line.split(" # ").last().unwrap();
            assert!(text.contains(comment), "{comment}");
        }
    }

    #[test]
    fn without_models_there_is_the_example() {
        assert_eq!(models(&[found("a", &[])]), MODELS);
    }
}
