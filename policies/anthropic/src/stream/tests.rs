use super::*;
use policy_chat::stream::Stream;
use proptest::prelude::*;

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
}

fn sse(chunks: &[Value]) -> Vec<u8> {
    chunks.iter().flat_map(|c| format!("data: {c}\n\n").into_bytes()).collect()
}

fn run(input: &[u8]) -> Vec<Value> {
    let mut stream = Stream::new(Messages::new("msg_1".into()), 1);
    let mut out = stream.events(input);
    out.extend(stream.finish());
    parse(&out)
}

/// Every event must have its `event:` line, equal to its payload's type.
fn parse(out: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(out).unwrap();
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let payload: Value = serde_json::from_str(data).unwrap();
        assert_eq!(payload["type"], name);
        payload
    });
    events.collect()
}

/// One word an event, as `start:text delta:text stop …`, the grammar that SDKs rely on.
fn shape(events: &[Value]) -> String {
    let word = |e: &Value| {
        let kind = e["type"].as_str().unwrap();
        match kind {
            "content_block_start" => format!("start:{}", e["content_block"]["type"].as_str().unwrap()),
            "content_block_delta" => e["delta"]["type"].as_str().unwrap().to_owned(),
            "content_block_stop" => "stop".to_owned(),
            _ => kind.to_owned(),
        }
    };
    events.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn check(chunks: &[Value], want: &str) {
    assert_eq!(shape(&run(&sse(chunks))), want);
}

#[test]
fn text() {
    let chunks = [
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "hi"})),
        finish("stop"),
        usage(),
    ];
    check(&chunks, "message_start start:text text_delta stop message_delta message_stop");
    let events = run(&sse(&chunks));
    assert_eq!(events[4]["delta"]["stop_reason"], "end_turn");
    assert_eq!(events[4]["usage"]["output_tokens"], 2);
}

#[test]
fn reasoning_and_content_in_one_chunk() {
    check(
        &[delta(json!({"reasoning_content": "hm", "content": "hi"})), finish("stop"), usage()],
        "message_start start:thinking thinking_delta signature_delta stop start:text text_delta stop message_delta message_stop",
    );
}

#[test]
fn parallel_calls_follow_one_another() {
    let call = |index: u64, id: &str, name: &str, arguments: &str| {
        delta(
            json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}),
        )
    };
    let chunks = [
        call(0, "a", "f", ""),
        call(1, "b", "g", "{\"x\":"),
        call(0, "", "", "{}"),
        call(1, "", "", "1}"),
        finish("stop"),
        usage(),
    ];
    check(
        &chunks,
        "message_start start:tool_use input_json_delta stop start:tool_use input_json_delta input_json_delta stop message_delta message_stop",
    );
    let events = run(&sse(&chunks));
    assert_eq!(events[5]["delta"]["partial_json"], "{\"x\":");
    assert_eq!(events[8]["delta"]["stop_reason"], "tool_use"); // although the node said stop
}

#[test]
fn usage_may_ride_the_finish_chunk_or_never_come() {
    let mut last = finish("length");
    last["usage"] = json!({"prompt_tokens": 1, "completion_tokens": 9});
    check(
        &[delta(json!({"content": "x"})), last],
        "message_start start:text text_delta stop message_delta message_stop",
    );
    check(
        &[delta(json!({"content": "x"})), finish("stop")],
        "message_start start:text text_delta stop message_delta message_stop",
    );
}

#[test]
fn a_broken_stream_never_ends_well() {
    let start = delta(json!({"content": "x"}));
    check(std::slice::from_ref(&start), "message_start start:text text_delta error");
    check(
        &[start.clone(), json!({"error": {"message": "gone"}}), usage()],
        "message_start start:text text_delta error",
    );
    assert_eq!(shape(&run(b"data: {broken\n\n")), "error");
    assert_eq!(shape(&run(b"")), "error");
    assert_eq!(shape(&run(b"data: [DONE]\n\n")), "error");
}

#[test]
fn crlf_comments_and_split_data() {
    let input = b": hi\r\n\r\nevent: x\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"},\r\ndata: \"finish_reason\":\"stop\"}]}\r\n\r\n";
    assert_eq!(shape(&run(input)), "message_start start:text text_delta stop message_delta message_stop");
}

proptest! {
    /// Whatever comes, blocks nest properly, indices are dense and one terminal event ends it.
    #[test]
    fn always_well_formed(picks in prop::collection::vec((0u8..6, 0u64..3), 0..20)) {
        let chunks: Vec<Value> = picks.iter().map(|&(kind, n)| match kind {
            0 => delta(json!({"content": "t"})),
            1 => delta(json!({"reasoning_content": "r"})),
            2 => delta(json!({"tool_calls": [{"index": n, "id": "i", "function": {"name": "f", "arguments": "{"}}]})),
            3 => delta(json!({"tool_calls": [{"index": n, "function": {"arguments": "}"}}]})),
            4 => finish("stop"),
            _ => usage(),
        }).collect();
        let events = run(&sse(&chunks));
        let (mut open, mut next) = (None, 0);
        for event in &events {
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    prop_assert!(open.is_none());
                    prop_assert_eq!(event["index"].as_u64(), Some(next));
                    open = Some(next);
                    next += 1;
                }
                "content_block_delta" => prop_assert_eq!(event["index"].as_u64(), open),
                "content_block_stop" => prop_assert_eq!(event["index"].as_u64(), open.take()),
                _ => {}
            }
        }
        let terminal = events.iter().filter(|e| e["type"] == "message_stop" || e["type"] == "error").count();
        prop_assert_eq!(terminal, 1);
    }
}

/// litellm#32357: one message_start, and thoughts alone are an answer.
#[test]
fn thoughts_alone_are_an_answer_with_one_beginning() {
    check(
        &[
            delta(json!({"role": "assistant"})),
            delta(json!({"role": "assistant", "reasoning_content": "hm"})),
            finish("stop"),
            usage(),
        ],
        "message_start start:thinking thinking_delta signature_delta stop message_delta message_stop",
    );
}

/// litellm#28735: usage that rides every chunk is not added up; #36553: chunks without choices.
#[test]
fn usage_is_counted_once() {
    let with_usage = |mut chunk: Value, tokens: u64| {
        chunk["usage"] = json!({"prompt_tokens": 3, "completion_tokens": tokens});
        chunk
    };
    let chunks = [
        with_usage(delta(json!({"content": "a"})), 1),
        json!({"choices": []}),
        json!({"choices": null}),
        with_usage(delta(json!({"content": "b"})), 2),
        with_usage(finish("stop"), 2),
    ];
    let events = run(&sse(&chunks));
    assert_eq!(events[5]["usage"]["output_tokens"], 2);
    assert_eq!(events.iter().filter(|e| e["type"] == "message_delta").count(), 1);
}
