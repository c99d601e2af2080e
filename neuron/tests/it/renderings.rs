//! Prompts against those of the Python library transformers: `tests/data/templates/README.md` tells of the data.

use std::{fs, path::Path};

use neuron::{
    template::{ChatTemplate, Conversation},
    tokenizer::Guard,
};
use serde_json::Value;

/// Names a further folder with templates, and with a `renderings.json` that `render.py` made of them.
const FOLDER: &str = "NEURON_TEMPLATES";

#[test]
fn prompts_are_those_of_transformers() {
    let (templates, renderings) =
        compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates"));
    assert!(templates >= 12 && renderings >= 100, "only {renderings} renderings of {templates} templates");
    if let Some(folder) = std::env::var_os(FOLDER) {
        compare(Path::new(&folder));
    }
}

/// Fails with all that differs; how many templates and renderings there are.
fn compare(folder: &Path) -> (usize, usize) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let data: Value = serde_json::from_str(&read("renderings.json")).unwrap();
    let (mut compared, mut differences) = (0, Vec::new());
    let templates = data["templates"].as_object().unwrap();
    for (name, expected) in templates {
        let (bos, eos) = (expected["bos"].as_str().unwrap(), expected["eos"].as_str().unwrap());
        let source = read(&format!("{name}.jinja"));
        let template = match ChatTemplate::new(&source, None, bos, eos, Guard::default()) {
            Ok(template) => template,
            Err(e) => {
                differences.push(format!("{name} does not parse: {e}"));
                continue;
            }
        };
        for case in expected["renderings"].as_array().unwrap() {
            compared += 1;
            if let Some(difference) = difference(&template, &data["conversations"], case) {
                let (conversation, go_on, kwargs) =
                    (&case["conversation"], &case["add_generation_prompt"], &case["kwargs"]);
                differences.push(format!(
                    "{name}, {conversation}, add_generation_prompt {go_on}, {kwargs}: {difference}"
                ));
            }
        }
    }
    let (count, all) = (differences.len(), differences.join("\n"));
    assert!(differences.is_empty(), "{count} of {compared} renderings differ:\n{all}");
    (templates.len(), compared)
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
    let expected = case["rendered"].as_str();
    // Midnight may pass in between.
    let before = expected.map(with_dates);
    let rendered = if case["add_generation_prompt"].as_bool().unwrap() {
        template.render(&conversation)
    } else {
        template.render_history(&conversation)
    };
    let after = expected.map(with_dates);
    match (rendered, after) {
        (Ok(rendered), Some(after)) if rendered == after || Some(&rendered) == before.as_ref() => None,
        (Ok(rendered), Some(after)) => Some(first_difference(&rendered, &after)),
        (Ok(_), None) => Some("transformers refuses it, neuron does not".to_owned()),
        (Err(e), Some(_)) => Some(format!("neuron refuses it: {e}")),
        (Err(_), None) => None,
    }
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
