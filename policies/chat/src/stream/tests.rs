use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Writes the grammar down: `begin`, `[kind`, pieces, `]`, and how it ended.
#[derive(Default)]
struct Plain;

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Thoughts => "thoughts",
        Kind::Words => "words",
        Kind::Call => "call",
    }
}

impl Writer for Plain {
    fn begin(&mut self, first: First, out: &mut Vec<u8>) {
        out.extend(format!("begin({})", first.usage.prompt_tokens).bytes());
    }

    fn open(&mut self, kind: Kind, call: Option<NewCall<'_>>, out: &mut Vec<u8>) {
        let call = call.map(|c| format!(" {}:{}", if c.id.len() > 9 { "made" } else { c.id }, c.name));
        out.extend(format!(" [{}{}", word(kind), call.unwrap_or_default()).bytes());
    }

    fn delta(&mut self, _kind: Kind, text: &str, out: &mut Vec<u8>) {
        assert!(!text.is_empty());
        out.extend(format!(" {text:?}").bytes());
    }

    fn close(&mut self, kind: Kind, cut: bool, out: &mut Vec<u8>) {
        out.extend(format!("{} {}]", if cut { " cut" } else { "" }, word(kind)).bytes());
    }

    fn end(&mut self, finish: &Finish, usage: &Usage, out: &mut Vec<u8>) {
        out.extend(format!(" end({finish:?} {})", usage.completion_tokens).bytes());
    }

    fn fail(&mut self, error: &NativeError, out: &mut Vec<u8>) {
        out.extend(format!(" fail({} {})", error.status, error.message).bytes());
    }
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
}

fn call(index: Value, id: Value, name: Value, arguments: &str) -> Value {
    json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
}

fn calls(list: Value) -> Value {
    delta(json!({"tool_calls": list}))
}

fn sse(chunks: &[Value]) -> Vec<u8> {
    chunks.iter().flat_map(|c| format!("data: {c}\n\n").into_bytes()).collect()
}

fn run(input: &[u8]) -> String {
    let mut stream = Stream::new(Plain, 1);
    let mut out = stream.events(input);
    out.extend(stream.finish());
    assert!(stream.events(b"data: {}\n\n").is_empty() && stream.finish().is_empty(), "an end is an end");
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check(chunks: &[Value], want: &str) {
    assert_eq!(run(&sse(chunks)), want);
}

#[test]
fn words_in_order_with_the_usage_wherever_it_rides() {
    let want = r#"begin(0) [words "hel" "lo" words] end(Stop { sequence: None } 2)"#;
    let words = [
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "hel"})),
        delta(json!({"content": "lo"})),
    ];
    check(&[&words[..], &[finish("stop"), usage()]].concat(), want);
    let mut on_finish = finish("stop");
    on_finish["usage"] = usage()["usage"].clone();
    check(&[&words[..], &[on_finish]].concat(), want);
    // Without any, the end still comes.
    check(&[&words[..], &[finish("stop")]].concat(), &want.replace("2)", "0)"));
    let every = words.iter().cloned().map(|mut c| {
        c["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 1});
        c
    });
    check(&every.chain([finish("stop"), usage()]).collect::<Vec<_>>(), &want.replace("begin(0)", "begin(3)"));
}

/// litellm PR#31957, #33224: one chunk with both, and deltas that match their block.
#[test]
fn thoughts_words_and_calls_in_one_chunk() {
    let mut all = delta(
        json!({"reasoning_content": "hm", "content": "well", "tool_calls": [call(json!(0), json!("a"), json!("f"), "{}")]}),
    );
    all["choices"][0]["finish_reason"] = "tool_calls".into();
    check(
        &[all, usage()],
        r#"begin(0) [thoughts "hm" thoughts] [words "well" words] [call a:f "{}" call] end(Called 2)"#,
    );
    check(
        &[delta(json!({"reasoning": "only"})), finish("stop")],
        r#"begin(0) [thoughts "only" thoughts] end(Stop { sequence: None } 0)"#,
    );
}

/// sglang#39782, praxis-proxy/ai#266: calls whose pieces come mixed.
#[test]
fn mixed_calls_come_one_after_the_other() {
    let chunks = [
        calls(json!([call(json!(0), json!("a"), json!("f"), "{\"x\"")])),
        calls(json!([call(json!(1), json!("b"), json!("g"), "{\"y\"")])),
        calls(json!([
            call(json!(0), Value::Null, Value::Null, ":1}"),
            call(json!(1), Value::Null, Value::Null, ":2}")
        ])),
        finish("tool_calls"),
    ];
    check(&chunks, r#"begin(0) [call a:f "{\"x\"" ":1}" call] [call b:g "{\"y\"" ":2}" call] end(Called 0)"#);
}

/// zed#38412: pieces without an index; and ids and names that are repeated on every piece.
#[test]
fn calls_without_an_index_or_an_id() {
    let bare = |id: Value, name: Value, arguments: &str| json!([{"id": id, "function": {"name": name, "arguments": arguments}}]);
    let chunks = [
        calls(bare(json!("a"), json!("f"), "{")),
        calls(bare(Value::Null, Value::Null, "}")),
        calls(bare(json!("b"), json!("g"), "{")),
        calls(bare(json!("b"), json!("g"), "}")),
        // `stop`, although it called: litellm#34692.
        finish("stop"),
    ];
    check(&chunks, r#"begin(0) [call a:f "{" "}" call] [call b:g "{" "}" call] end(Called 0)"#);
    let nameless = [
        calls(json!([call(json!(0), Value::Null, json!(""), "{")])),
        calls(json!([call(json!(0), Value::Null, json!("f"), "}")])),
        finish("tool_calls"),
    ];
    check(&nameless, r#"begin(0) [call made:f "{}" call] end(Called 0)"#);
    // A call that never gets a name is none.
    check(
        &[calls(json!([call(json!(0), json!("a"), Value::Null, "{}")])), finish("stop")],
        "begin(0) end(Stop { sequence: None } 0)",
    );
}

/// The next call is not held until the end: it streams as soon as the one before it is whole.
#[test]
fn calls_in_a_row_stream() {
    let mut stream = Stream::new(Plain, 1);
    let mut say = |chunk: Value| String::from_utf8(stream.events(&sse(&[chunk]))).unwrap();
    say(calls(json!([call(json!(0), json!("a"), json!("f"), "{}")])));
    assert_eq!(say(calls(json!([call(json!(1), json!("b"), json!("g"), "{")]))), r#" call] [call b:g "{""#);
    assert_eq!(say(calls(json!([call(json!(1), Value::Null, Value::Null, "}")]))), r#" "}""#);
    // What comes of a call that was whole is nothing, or no model's.
    assert_eq!(say(calls(json!([call(json!(0), Value::Null, Value::Null, "\n")]))), "");
    assert!(say(calls(json!([call(json!(0), Value::Null, Value::Null, "x")]))).contains("fail"));
}

/// litellm PR#32475: a failure that looked like a clean end.
#[test]
fn what_breaks_off_never_ends_well() {
    let hi = delta(json!({"content": "hi"}));
    let broken = "fail(502 the model's stream broke off before its end; try again)";
    check(std::slice::from_ref(&hi), &format!(r#"begin(0) [words "hi" {broken}"#));
    check(&[], &format!(" {broken}"));
    check(&[json!({"error": {"message": "no", "status": 503}}), hi.clone(), finish("stop")], " fail(503 no)");
    let unreadable = "fail(502 the model's stream could not be read; try again)";
    for bad in ["{", "7", r#"{"choices":5}"#, r#"{"choices":[{"delta":{"content":5}}]}"#, "\u{fffd}"] {
        let input = [sse(std::slice::from_ref(&hi)), format!("data: {bad}\n\n").into_bytes()].concat();
        assert_eq!(run(&input), format!(r#"begin(0) [words "hi" {unreadable}"#), "{bad}");
    }
    let input = [sse(&[finish("stop")]), b"data: [DONE]\n\n".to_vec(), sse(&[hi])].concat();
    assert_eq!(run(&input), "begin(0) end(Stop { sequence: None } 0)");
}

#[test]
fn other_choices_and_stop_texts() {
    let mut other = delta(json!({"content": "no"}));
    other["choices"][0]["index"] = 1.into();
    let mut stop = finish("stop");
    stop["choices"][0]["stop_reason"] = "END".into();
    check(
        &[other, delta(json!({"content": "hi"})), stop],
        r#"begin(0) [words "hi" words] end(Stop { sequence: Some("END") } 0)"#,
    );
}

/// Servers that give every call the same index.
#[test]
fn two_calls_under_one_index() {
    let chunks = [
        calls(json!([call(json!(0), json!("a"), json!("f"), "{}")])),
        calls(json!([call(json!(0), json!("b"), json!("g"), "{")])),
        calls(json!([call(json!(0), Value::Null, Value::Null, "}")])),
        finish("tool_calls"),
    ];
    check(&chunks, r#"begin(0) [call a:f "{}" call] [call b:g "{" "}" call] end(Called 0)"#);
}

/// Not yet, say some servers with an empty text.
#[test]
fn an_empty_finish_reason_is_none() {
    let mut hi = delta(json!({"content": "hi"}));
    hi["choices"][0]["finish_reason"] = "".into();
    hi["usage"] = usage()["usage"].clone();
    check(&[hi], r#"begin(3) [words "hi"fail(502 the model's stream broke off before its end; try again)"#.replace("\"fail", "\" fail").as_str());
}

#[test]
fn what_is_held_is_bounded() {
    let many: Vec<Value> =
        (0..=MOST).map(|i| calls(json!([call(json!(i), json!("a"), Value::Null, "")]))).collect();
    assert!(run(&sse(&many)).ends_with("fail(502 the model's stream held too many calls)"));
    let piece = calls(json!([call(json!(0), json!("a"), Value::Null, &"x".repeat(1 << 20))]));
    assert!(run(&sse(&vec![piece; 5])).ends_with("fail(502 the model's stream held too many arguments)"));
}

const MOST: usize = 1024;

fn any_chunk() -> impl Strategy<Value = Value> {
    let text = "[a-c\"\\\\é]{0,3}";
    let piece = (prop::option::of(0u64..3), prop::option::of("[ab]?"), prop::option::of("[fg]?"), text)
        .prop_map(|(index, id, name, arguments)| json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}}));
    prop_oneof![
        4 => text.prop_map(|t| delta(json!({"content": t}))),
        2 => text.prop_map(|t| delta(json!({"reasoning_content": t}))),
        4 => prop::collection::vec(piece, 0..3).prop_map(|list| calls(json!(list))),
        1 => prop_oneof![Just("stop"), Just("length"), Just("tool_calls")].prop_map(finish),
        1 => Just(usage()),
    ]
}

proptest! {
    /// Whatever comes, the grammar holds, and how events are put together makes no difference.
    #[test]
    fn any_stream(chunks in prop::collection::vec(any_chunk(), 0..20), cuts in prop::collection::vec(any::<bool>(), 20)) {
        let whole = run(&sse(&chunks));
        let (mut stream, mut out, mut gathered) = (Stream::new(Plain, 1), Vec::new(), Vec::new());
        for (chunk, cut) in chunks.iter().zip(&cuts) {
            gathered.extend(sse(std::slice::from_ref(chunk)));
            if *cut {
                out.extend(stream.events(&std::mem::take(&mut gathered)));
            }
        }
        out.extend(stream.events(&gathered));
        out.extend(stream.finish());
        prop_assert_eq!(String::from_utf8(out).unwrap(), whole.clone());
        let opened = whole.matches(" [").count();
        let closed = whole.matches("thoughts]").count() + whole.matches("words]").count() + whole.matches("call]").count();
        match whole.contains(" end(") {
            true => prop_assert_eq!(opened, closed),
            false => prop_assert!(whole.contains(" fail(") && opened - closed <= 1),
        }
    }
}
