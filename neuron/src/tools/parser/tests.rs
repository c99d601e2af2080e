use proptest::prelude::*;
use serde_json::json;

use super::*;

fn tools() -> Vec<Tool> {
    let tool = |name: &str, properties: serde_json::Value| Tool {
        name: name.to_owned(),
        parameters: json!({ "type": "object", "properties": properties }),
        strict: false,
    };
    vec![
        tool("get", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool("now", json!({})),
    ]
}

/// An answer as one line: text as it is, a call as `⟨name arguments⟩`.
fn read(notation: Notation, pieces: &[&str]) -> String {
    let mut parser = Parser::new(notation, tools());
    let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    let mut out = String::new();
    for piece in all {
        match piece {
            Piece::Text(text) | Piece::Arguments(text) => out += &text,
            Piece::Begin(name) => out += &format!("⟨{name} "),
            Piece::End => out.push('⟩'),
        }
    }
    out
}

fn check(notation: Notation, text: &str, expected: &str) {
    assert_eq!(read(notation, &[text]), expected, "{text}");
    let single: Vec<String> = text.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    assert_eq!(read(notation, &single), expected, "{text}, character by character");
}

#[test]
fn hermes() {
    let check = |text: &str, expected: &str| check(Notation::Hermes, text, expected);
    check(
        "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Rom\"}}\n</tool_call>",
        "⟨get {\"city\": \"Rom\"}⟩",
    );
    check(
        "I look.\n<tool_call>{\"name\":\"get\",\"arguments\":{\"a\":[1,{\"b\":\"}]\\\"\"}]}}</tool_call>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>",
        "I look.\n⟨get {\"a\":[1,{\"b\":\"}]\\\"\"}]}⟩⟨now {}⟩",
    );
    // In the other order, as the text of an object, without any, and with more than is known.
    check("<tool_call>{\"arguments\": {\"days\": 2}, \"name\": \"get\"}</tool_call>", "⟨get {\"days\": 2}⟩");
    check(
        "<tool_call>{\"name\": \"get\", \"arguments\": \"{\\\"days\\\": 2}\"}</tool_call>",
        "⟨get {\"days\": 2}⟩",
    );
    check("<tool_call>{\"name\": \"now\"}</tool_call>", "⟨now {}⟩");
    check("<tool_call>{\"name\": \"now\", \"arguments\": null}</tool_call>", "⟨now {}⟩");
    check(
        "<tool_call>{\"id\": 1, \"name\": \"get\", \"x\": [true], \"parameters\": {}}</tool_call>",
        "⟨get {}⟩",
    );
    // Words after a call, and what closes nothing.
    check("<tool_call>{\"name\": \"now\"}</tool_call> done", "⟨now {}⟩ done");
    check("<tool_call>{\"name\": \"now\"} done", "⟨now {}⟩ done");
    // A brace too few, one too many, and Qwen3-Coder's own end left out.
    check("<tool_call>{\"name\": \"now\", \"arguments\": {}</tool_call>", "⟨now {}⟩");
    check("<tool_call>{\"name\": \"now\", \"arguments\": {}}}</tool_call> x", "⟨now {}⟩ x");
    check("<tool_call><function=get><parameter=days>1</parameter></tool_call>", "⟨get {\"days\": 1}⟩");
    // Cut short: what has begun is told as far as it came.
    check("<tool_call>{\"name\": \"get\", \"arguments\": {\"city\": \"Ro", "⟨get {\"city\": \"Ro⟩");
}

#[test]
fn what_only_looks_like_a_call_stays_text() {
    for text in [
        "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"get\"}</tool_call>",
        "<tool_call>{\"name\": \"get\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": 5}</tool_call>",
        "<tool_call>{name: \"get\"}</tool_call>",
        "<tool_call>get</tool_call>",
        "write <tool_call> to call",
        "<tool_call>{\"name\": \"get\", \"argu",
        "<tool_cal",
        "<tool_call>\n",
        "a < b and {\"name\": \"get\", \"arguments\": {}}",
        "<function=get></function>",
    ] {
        check(Notation::Hermes, text, text);
    }
    for text in [
        "{\"name\": \"rm\", \"parameters\": {}}",
        "{\"a\": 1}",
        "x {\"name\": \"now\"}",
        "  plain",
        "{",
        " {\"na",
    ] {
        check(Notation::Llama, text, text);
    }
    for text in ["[TOOL_CALLS]rm{}", "[TOOL_CALLS]", "[TOOL_CALLS][]", "[TOOL"] {
        check(Notation::Mistral, text, text);
    }
    for text in [
        "<start_function_call>call:get{city}<end_function_call>",
        "<start_function_call>call:rm{}<end_function_call>",
    ] {
        check(Notation::Gemma, text, text);
    }
    // A second try after one that was none.
    check(
        Notation::Hermes,
        "<tool_call>no <tool_call>{\"name\": \"now\"}</tool_call>",
        "<tool_call>no ⟨now {}⟩",
    );
}

#[test]
fn qwen_coder() {
    let check = |text: &str, expected: &str| check(Notation::Hermes, text, expected);
    let call = "<tool_call>\n<function=get>\n<parameter=city>\nNew\nYork <b>\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
    check(call, "⟨get {\"city\": \"New\\nYork <b>\", \"days\": 3}⟩");
    // By its schema a text stays one.
    check(
        "<tool_call><function=get><parameter=city>12</parameter></function></tool_call>",
        "⟨get {\"city\": \"12\"}⟩",
    );
    check("<tool_call>\n<function=now>\n</function>\n</tool_call>", "⟨now {}⟩");
    check(
        "<tool_call><function=rm></function></tool_call>",
        "<tool_call><function=rm></function></tool_call>",
    );
}

#[test]
fn llama() {
    let check = |text: &str, expected: &str| check(Notation::Llama, text, expected);
    check("{\"name\": \"get\", \"parameters\": {\"city\": \"Rom\"}}", "⟨get {\"city\": \"Rom\"}⟩");
    check("\n\n{\"type\": \"function\", \"name\": \"get\", \"parameters\": {}}", "⟨get {}⟩");
    check(
        "<|python_tag|>{\"name\": \"get\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}",
        "⟨get {}⟩⟨now {}⟩",
    );
    check("<|python_tag|>print(1)", "<|python_tag|>print(1)");
}

#[test]
fn mistral() {
    let check = |text: &str, expected: &str| check(Notation::Mistral, text, expected);
    check(
        "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {\"days\": 1}}, {\"name\": \"now\", \"arguments\": {}}]",
        "⟨get {\"days\": 1}⟩⟨now {}⟩",
    );
    check("[TOOL_CALLS] {\"name\": \"now\", \"arguments\": {}}", "⟨now {}⟩");
    check(
        "ok [TOOL_CALLS]get[ARGS]{\"days\": 1}[TOOL_CALLS]now[CALL_ID]123[ARGS]{}",
        "ok ⟨get {\"days\": 1}⟩⟨now {}⟩",
    );
    check("[TOOL_CALLS]get{\"days\": 1}", "⟨get {\"days\": 1}⟩");
}

#[test]
fn deepseek() {
    let check = |text: &str, expected: &str| check(Notation::DeepSeek, text, expected);
    let one = |name: &str, arguments: &str| {
        format!(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        )
    };
    let both = format!(
        "hm<｜tool▁calls▁begin｜>{}\n{}<｜tool▁calls▁end｜>",
        one("get", "{\"city\": \"```\"}"),
        one("now", "{}")
    );
    check(&both, "hm⟨get {\"city\": \"```\"}⟩⟨now {}⟩");
    check(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{\"days\": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "⟨get {\"days\": 2}⟩",
    );
    check("<｜tool▁call▁begin｜>rm<｜tool▁sep｜>{}", "<｜tool▁call▁begin｜>rm<｜tool▁sep｜>{}");
}

#[test]
fn gemma() {
    let check = |text: &str, expected: &str| check(Notation::Gemma, text, expected);
    let call = "<start_function_call>call:get{city:<escape>a, {b}<escape>,days:3,list:[1,<escape>x<escape>,{k:true}]}<end_function_call>";
    check(call, "⟨get {\"city\":\"a, {b}\",\"days\":3,\"list\":[1,\"x\",{\"k\":true}]}⟩");
    check("<start_function_call>call:now{}<end_function_call>", "⟨now {}⟩");
}

proptest! {
    #[test]
    fn cutting_changes_nothing_and_text_is_never_lost(
        notation in prop::sample::select(vec![Notation::Hermes, Notation::Llama, Notation::Mistral, Notation::DeepSeek, Notation::Gemma]),
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "{\"name\": \"get\", ", "\"arguments\": {\"city\": \"x\"}", "}", "{", "\"", "[TOOL_CALLS]", "[", "]",
            "<function=get>", "<parameter=city>", "</parameter>", "</function>", "call:now{}", "<start_function_call>", "<end_function_call>",
            "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "now", "<｜tool▁sep｜>", "<|python_tag|>", " ", "\n", "日", ",", "a",
        ]), 0..14),
        cuts in prop::collection::vec(0usize..200, 0..6),
    ) {
        let text: String = parts.concat();
        let mut at: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).filter(|at| text.is_char_boundary(*at)).collect();
        at.sort_unstable();
        let ends = at.iter().copied().chain([text.len()]);
        let pieces: Vec<&str> = [0].into_iter().chain(at.iter().copied()).zip(ends).map(|(a, b)| &text[a..b]).collect();
        let whole = read(notation, &[&text]);
        prop_assert_eq!(&read(notation, &pieces), &whole);
        // Without a call all of the text is there, but for what groups calls.
        if !whole.contains('⟨') && notation != Notation::DeepSeek {
            prop_assert_eq!(whole, text);
        }
    }
}
