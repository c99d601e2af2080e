//! What neuron parses of foreign bytes, each as a function of bytes that may do anything but panic. `fuzz/` has a target for
//! each; a test here runs their seeds and what becomes of those.

use crate::{
    engine::Blueprint,
    gguf::Header,
    reasoning, safetensors, sources,
    template::{ChatTemplate, Conversation},
    text::TextModel,
    tokenizer::Guard,
    tools,
};

/// One of them.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: &'static [&'static [u8]],
}

/// All of them, by the names of the fuzz targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "gguf",
        run: gguf,
        seeds: &[
            b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama\x01\0\0\0\0\0\0\0t\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"GGUF\x02\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0x\x01\0\0\0\0\0\0\0y\x01\0\0\0\0\0\0\0b\x0c\0\0\0\0\0\0\0\0\0\xf0\x3f",
        ],
    },
    Target {
        name: "safetensors",
        run: safetensors::fuzz,
        seeds: &[
            b"\x3c\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}    ABCDEFGH",
            b"\x6b\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"shape\":[],\"dtype\":\"BF16\",\"data_offsets\":[0,2]}}                        AB",
        ],
    },
    Target {
        name: "journal",
        run: sources::fuzz_journal,
        seeds: &[
            b"\x1e\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"cxpart01\x64\0\0\0\0\0\0\0\x1e\0\0\0\0\0\0\0\x28\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ],
    },
    Target {
        name: "template",
        run: template,
        seeds: &[
            b"{% for m in messages %}{{ m.role + ':' + m['content'].strip() }}{% endfor %}{%- generation -%}x{% endgeneration %}",
            b"{{ raise_exception('no') if messages[0].content.rsplit(',', 1)[0].zfill(9) else tools | tojson(indent=2) }}",
            b"{# c #}{% set a = 'x\\\ny' %}{{ a.partition('x') }}{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ messages[::-1] }}",
        ],
    },
    Target {
        name: "tool_calls",
        run: tool_calls,
        seeds: &[
            b"\x07I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Oslo\"}}\n</tool_call>",
            b"\x0e<tool_call><function=weather><parameter=place>\nOslo\n</parameter></function></tool_call>",
            b"\x01{\"name\": \"time\", \"parameters\": {}}",
            b"\x02[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"place\": \"\\u00e9\"}}, {\"name\": \"time\", \"arguments\": {}}]",
            b"\x03[TOOL_CALLS]weather[ARGS]{\"place\": [1, 2]}",
            b"\x06<start_function_call>call:weather{place:<escape>Oslo<escape>}<end_function_call>",
            "\x04<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>function<\u{ff5c}tool\u{2581}sep\u{ff5c}>weather\n```json\n{}\n```<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>".as_bytes(),
        ],
    },
    Target {
        name: "thoughts",
        run: thoughts,
        seeds: &[
            b"\x08<think>\nso it is\n</think>\n\nParis",
            b"\x0cso it is</think> Paris",
            b"\x01 [THINK]a[/THINK]b[THINK]c",
            b"\x0b<think>no such thing</think>",
        ],
    },
];

/// The target of that name; none is no target, and no mistake that bytes could make.
pub fn run(name: &str, data: &[u8]) {
    if let Some(target) = TARGETS.iter().find(|target| target.name == name) {
        (target.run)(data);
    }
}

/// All of preflight that needs no more than the header.
fn gguf(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    Blueprint::from_header(&header).ok();
    TextModel::from_header(&header).ok();
}

/// The first byte says how; the rest is what a model writes.
fn written(data: &[u8]) -> Option<(u8, &str)> {
    let (how, text) = data.split_first()?;
    Some((*how, std::str::from_utf8(text).ok()?))
}

fn tool_calls(data: &[u8]) {
    if let Some((how, text)) = written(data) {
        tools::fuzz(how, text);
    }
}

fn thoughts(data: &[u8]) {
    if let Some((how, text)) = written(data) {
        reasoning::fuzz(how, text);
    }
}

fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source, None, "<s>", "</s>", Guard::default()) else { return };
    let message = serde_json::json!({ "role": "user", "content": "a, b" });
    let messages = message.as_object().cloned().into_iter().collect();
    template.render(&Conversation { messages, ..Conversation::default() }).ok();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of a seed: bytes that are others, that go, or that come from another seed.
    fn changed(target: &Target, seed: usize, changes: &[(usize, u8, u8)]) -> Vec<u8> {
        let mut bytes = target.seeds[seed % target.seeds.len()].to_vec();
        for (at, how, value) in changes {
            let at = at % (bytes.len() + 1);
            let other = target.seeds[usize::from(*value) % target.seeds.len()];
            match how % 5 {
                0 if at < bytes.len() => bytes[at] = *value,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, *value),
                3 => bytes.truncate(at.max(16)),
                _ => drop(bytes.splice(at..at, other.iter().take(usize::from(*value)).copied())),
            }
        }
        bytes
    }

    #[test]
    fn seeds_are_what_they_stand_for() {
        assert!(Header::parse(TARGETS[0].seeds[0]).is_ok(), "{:?}", Header::parse(TARGETS[0].seeds[0]));
        assert!(Header::parse(TARGETS[0].seeds[1]).is_ok(), "{:?}", Header::parse(TARGETS[0].seeds[1]));
        for target in TARGETS {
            target.seeds.iter().for_each(|seed| (target.run)(seed));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn nothing_is_too_strange(seed: u8, changes in prop::collection::vec((0usize..200, any::<u8>(), any::<u8>()), 1..5)) {
            for target in TARGETS {
                (target.run)(&changed(target, seed.into(), &changes));
            }
        }
    }

    #[test]
    fn each_has_its_fuzz_target() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        for Target { name, .. } in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let source = std::fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(source.contains(&format!("neuron::fuzzing::run({name:?}")), "{name}");
        }
    }
}
