//! Prompts against those of the Python library transformers: `tests/data/templates/README.md` tells of the data.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neuron::{
    template::{ChatTemplate, Conversation},
    tokenizer::Guard,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Names a further folder with templates, and with a `renderings.json` that `render.py` made of them.
const FOLDER: &str = "NEURON_TEMPLATES";

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates")
}

#[test]
fn prompts_are_those_of_transformers() {
    let (templates, renderings) = compare(&data().join("renderings.json"), &data());
    assert!(templates >= 12 && renderings >= 300, "only {renderings} renderings of {templates} templates");
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        compare(&folder.join("renderings.json"), folder);
    }
}

/// The models' own templates come with a Python package that `cargo xtask setup` installs.
#[test]
fn prompts_of_real_models_are_those_of_transformers() {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/lib");
    let pythons = fs::read_dir(&venv).expect("run `cargo xtask setup` first").flatten();
    let templates = pythons.map(|python| python.path().join("site-packages/trl/chat_templates"));
    let templates = templates.into_iter().find(|folder| folder.is_dir());
    let templates = templates.expect("the package trl is not there: run `cargo xtask setup`");
    let (templates, renderings) = compare(&data().join("real.json"), &templates);
    assert!(templates >= 40 && renderings >= 600, "only {renderings} renderings of {templates} templates");
}

/// Fails with all that differs; how many templates and renderings there are.
fn compare(expected: &Path, templates: &Path) -> (usize, usize) {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let conversations: Value = serde_json::from_str(&read(&data().join("renderings.json"))).unwrap();
    let data: Value = serde_json::from_str(&read(expected)).unwrap();
    let conversations = data.get("conversations").unwrap_or(&conversations["conversations"]);
    let (mut compared, mut differences) = (0, Vec::new());
    let all = data["templates"].as_object().unwrap();
    for (name, expected) in all {
        let (bos, eos) = (expected["bos"].as_str().unwrap(), expected["eos"].as_str().unwrap());
        let source = read(&templates.join(format!("{name}.jinja")));
        let template = match ChatTemplate::new(&source, None, bos, eos, Guard::default()) {
            Ok(template) => template,
            Err(e) => {
                differences.push(format!("{name} does not parse: {e}"));
                continue;
            }
        };
        for case in expected["renderings"].as_array().unwrap() {
            compared += 1;
            if let Some(difference) = difference(&template, conversations, case) {
                let (conversation, go_on, kwargs) =
                    (&case["conversation"], &case["add_generation_prompt"], &case["kwargs"]);
                differences.push(format!(
                    "{name}, {conversation}, add_generation_prompt {go_on}, {kwargs}: {difference}"
                ));
            }
        }
    }
    let (count, list) = (differences.len(), differences.join("\n"));
    assert!(differences.is_empty(), "{count} of {compared} renderings differ:\n{list}");
    (all.len(), compared)
}

/// What neuron makes of a case otherwise than transformers.
fn difference(template: &ChatTemplate, conversations: &Value, case: &Value) -> Option<String> {
    let conversation = &conversations[case["conversation"].as_str().unwrap()];
    let conversation = Conversation {
        messages: conversation["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message.as_object().unwrap().clone())
            .collect(),
        tools: conversation["tools"].as_array().unwrap().clone(),
        arguments: case["kwargs"].as_object().unwrap().clone(),
    };
    let render = || match case["add_generation_prompt"].as_bool().unwrap() {
        true => template.render(&conversation),
        false => template.render_history(&conversation),
    };
    if let Some(expected) = case["sha256"].as_str() {
        return match render() {
            Ok(rendered) if sha256(&rendered).starts_with(expected) => None,
            Ok(rendered) => Some(format!("render.py shows what it should be, not\n{rendered}")),
            Err(e) => Some(format!("neuron refuses it: {e}")),
        };
    }
    let expected = case["rendered"].as_str();
    // Midnight may pass in between.
    let before = expected.map(with_dates);
    let rendered = render();
    let after = expected.map(with_dates);
    match (rendered, after) {
        (Ok(rendered), Some(after)) if rendered == after || Some(&rendered) == before.as_ref() => None,
        (Ok(rendered), Some(after)) => Some(first_difference(&rendered, &after)),
        (Ok(_), None) => Some("transformers refuses it, neuron does not".to_owned()),
        (Err(e), Some(_)) => Some(format!("neuron refuses it: {e}")),
        (Err(_), None) => None,
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_difference(rendered: &str, expected: &str) -> String {
    let at = rendered.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(40)).take(80).collect::<String>();
    format!(
        "from character {at}\n  neuron       {:?}\n  transformers {:?}",
        around(rendered),
        around(expected)
    )
}

/// With today's date in place of each `{DATE:format}`. It is neuron's own: dates have a test elsewhere.
fn with_dates(text: &str) -> String {
    let mut parts = text.split("{DATE:");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (format, rest) = part.split_once('}').unwrap();
        let source = format!("{{{{ strftime_now({format:?}) }}}}");
        let date = ChatTemplate::new(&source, None, "", "", Guard::default()).unwrap();
        whole += &date.render(&Conversation::default()).unwrap();
        whole += rest;
    }
    whole
}
