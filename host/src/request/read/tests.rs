use super::*;
use proptest::prelude::*;

fn chat(body: &str) -> Result<Asked, Refusal> {
    parse(Inference::Chat, Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn bad_bodies_name_the_field() {
    let check = |body: &str, param: Option<&str>, part: &str| {
        let refusal = chat(body).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert_eq!(refusal.param, param, "{body}");
        assert!(refusal.message.contains(part), "{:?} lacks {part:?}", refusal.message);
    };
    check("", None, "not valid JSON");
    check("{\"model\": \"m\",", None, "not valid JSON");
    check("[]", None, "JSON object");
    check("{}", Some("model"), "required");
    check(r#"{"model": 3, "messages": [{}]}"#, Some("model"), "expected a string, got 3");
    check(r#"{"model": "", "messages": [{}]}"#, Some("model"), "non-empty");
    check(r#"{"model": null, "messages": [{}]}"#, Some("model"), "required");
    check(r#"{"model": "m"}"#, Some("messages"), "required");
    check(r#"{"model": "m", "messages": "hi"}"#, Some("messages"), "a list of messages");
    check(r#"{"model": "m", "messages": []}"#, Some("messages"), "at least one");
    check(r#"{"model": "m", "messages": [{}], "stream": "yes"}"#, Some("stream"), "true or false");
    check(r#"{"model": "m", "messages": [{}], "stream_options": 1}"#, Some("stream_options"), "an object");
}

#[test]
fn only_what_must_change_changes() {
    let check = |body: &str, model: &str, want: &str| {
        assert_eq!(chat(body).unwrap().for_node(model, &Defaults::default()), want.as_bytes(), "{body}");
    };
    let plain = r#"{ "messages":[{}],  "model" : "m" , "x": 1.0e5 }"#;
    check(plain, "m", plain);
    check(plain, "hf:m", r#"{ "messages":[{}],  "model" : "hf:m" , "x": 1.0e5 }"#);
    check(
        r#"{"model":"m","messages":[{}],"stream":true}"#,
        "n",
        r#"{"model":"n","stream_options":{"include_usage":true},"messages":[{}],"stream":true}"#,
    );
    check(
        r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"a":1}}"#,
        "m",
        r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"a":1,"include_usage":true}}"#,
    );
    check(
        r#"{"model":"m","messages":[{}],"stream":true,"stream_options":null}"#,
        "m",
        r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"include_usage":true}}"#,
    );
    let asked = r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"include_usage":true}}"#;
    check(asked, "m", asked);
}

#[test]
fn what_the_operator_has_stand_in_is_added_where_it_is_missing() {
    let defaults: Defaults = toml::from_str("max_tokens = 9\ntemperature = 0.5").unwrap();
    let check = |body: &str, want: &str| {
        assert_eq!(chat(body).unwrap().for_node("n", &defaults), want.as_bytes(), "{body}");
    };
    check(
        r#"{"model":"m","messages":[{"temperature":1}],"stream":true}"#,
        r#"{"model":"n","stream_options":{"include_usage":true},"max_tokens":9,"temperature":0.5,"messages":[{"temperature":1}],"stream":true}"#,
    );
    let given = r#"{"model":"n","messages":[{}],"temperature":1,"max_completion_tokens":3}"#;
    check(given, given);
    check(
        r#"{"model":"n","messages":[{}],"temperature":null,"max_completion_tokens":null, "top_p":null}"#,
        r#"{"model":"n","max_tokens":9,"messages":[{}],"temperature":0.5,"max_completion_tokens":null, "top_p":null}"#,
    );
}

#[test]
fn a_session_is_what_its_first_turn_was() {
    let opening =
        |messages: &str| chat(&format!(r#"{{"model":"m","messages":{messages}}}"#)).unwrap().session.opening;
    let first = opening(r#"[{"role":"system","content":"s"},{"role":"user","content":"a"}]"#);
    let later = opening(
        r#"[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]"#,
    );
    assert_eq!(first, later);
}

proptest! {
    /// Foreign bytes give an answer or an error, never a panic.
    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = parse(Inference::Chat, body.into());
    }

    #[test]
    fn rewriting_keeps_valid_json(model in "[a-z\"\\\\é]{1,8}", to in "[a-z\"\\\\é]{1,8}", stream in any::<bool>()) {
        let body = serde_json::json!({"a": model, "model": model, "messages": [{"role": "user"}], "stream": stream});
        let asked = chat(&body.to_string()).unwrap();
        let out: serde_json::Value = serde_json::from_slice(&asked.for_node(&to, &Defaults::default())).unwrap();
        prop_assert_eq!(out["model"].as_str(), Some(to.as_str()));
        prop_assert_eq!(&out["a"], &body["a"]);
        prop_assert_eq!(out["stream_options"]["include_usage"].as_bool().unwrap_or(false), stream);
    }
}
