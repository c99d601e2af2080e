//! Answers that have to be of a form.

use serde_json::{Value, json};

use crate::support::{MODEL, data, shared};

fn ask(question: &str, more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "temperature": 0, "max_tokens": 64,
        "messages": [{ "role": "user", "content": question }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn by_schema(schema: &Value) -> Value {
    json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } })
}

async fn answer(question: &str, more: Value) -> (String, String) {
    let reply = shared().post("/v1/chat/completions", ask(question, more)).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    let choice = &reply.json()["choices"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&choice["message"]["content"]), text(&choice["finish_reason"]))
}

#[tokio::test]
async fn an_answer_is_the_json_that_its_schema_says() {
    let schema = json!({ "type": "object", "properties": {
        "name": { "type": "string", "maxLength": 20 }, "age": { "type": "integer", "minimum": 0, "maximum": 120 } },
        "required": ["name", "age"], "additionalProperties": false });
    let (text, reason) = answer("Name a person.", by_schema(&schema)).await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["name"].is_string() && value["age"].as_u64() <= Some(120), "{text}");
    assert_eq!(reason, "stop");

    // The same as a stream, and several at once.
    let mut more = by_schema(&schema);
    more["stream"] = true.into();
    let events = shared().post("/v1/chat/completions", ask("Name a person.", more)).await.events();
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let words = chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
    assert_eq!(words.collect::<String>(), text);
    let mut more = by_schema(&schema);
    (more["n"], more["temperature"], more["seed"]) = (3.into(), json!(1.5), 5.into());
    let reply = shared().post("/v1/chat/completions", ask("Name a person.", more)).await.json();
    let texts: Vec<&str> =
        (0..3).map(|n| reply["choices"][n]["message"]["content"].as_str().unwrap()).collect();
    for text in &texts {
        assert!(serde_json::from_str::<Value>(text).unwrap()["age"].is_u64(), "{text}");
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}

/// All of [the corpus](../../data/schemas.json), many at once.
#[tokio::test]
async fn whatever_the_schema_the_real_model_keeps_to_it() {
    let data = data("schemas.json");
    let schemas = data["enforced"].as_array().unwrap();
    let one = async |schema: &Value| {
        let mut more = by_schema(schema);
        more["max_tokens"] = 56.into();
        let (text, reason) = answer("Give me an example in JSON.", more).await;
        if reason == "length" {
            return 0;
        }
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}"));
        if let Err(error) = jsonschema::validator_for(schema).unwrap().validate(&value) {
            panic!("{schema}: {text}: {error}");
        }
        1
    };
    let mut ended = 0;
    for some in schemas.chunks(24) {
        ended += futures_util::future::join_all(some.iter().map(one)).await.iter().sum::<usize>();
    }
    // What is longer than the answer may be is cut off: numbers have no end that this model would come to.
    assert!(ended * 100 > schemas.len() * 70, "{ended} of {}", schemas.len());
}

#[tokio::test]
async fn other_forms_are_kept_to_as_well() {
    let structured = |form: Value| json!({ "structured_outputs": form });
    let (text, _) = answer("Is Rome in Italy?", structured(json!({ "choice": ["yes", "no"] }))).await;
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    let (text, _) = answer("When?", structured(json!({ "regex": "[0-9]{4}-[0-9]{2}" }))).await;
    assert!(text.len() == 7 && text.as_bytes()[4] == b'-', "{text}");
    let lark = "start: number \"+\" number\nnumber: /[0-9]{1,3}/";
    let (text, _) = answer("Add.", structured(json!({ "grammar": lark }))).await;
    let (a, b) = text.split_once('+').unwrap();
    assert!([a, b].iter().all(|n| n.parse::<u16>().is_ok()), "{text}");
    let object = json!({ "response_format": { "type": "json_object" }, "max_tokens": 200 });
    let (text, reason) = answer("Give me a person as JSON.", object).await;
    assert!(reason == "length" || serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    // Plain completions, too.
    let body = json!({ "model": MODEL, "prompt": "One plus one is ", "max_tokens": 9,
        "structured_outputs": { "regex": "[0-9]+\\." } });
    let reply = shared().post("/v1/completions", body).await.json();
    let text = reply["choices"][0]["text"].as_str().unwrap();
    assert!(text.trim_end_matches('.').parse::<u64>().is_ok(), "{reply}");
}

#[tokio::test]
async fn what_cannot_be_is_said_before_anything_is_computed() {
    let check = async |more: Value, param: &str, words: &str| {
        let reply = shared().post("/v1/chat/completions", ask("x", more)).await;
        assert_eq!(reply.error(), (400, "invalid_grammar".to_owned()));
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], param);
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    };
    check(by_schema(&json!({ "not": {} })), "response_format", "not").await;
    check(by_schema(&json!({ "type": "array", "uniqueItems": true })), "response_format", "uniqueItems")
        .await;
    check(by_schema(&json!(false)), "response_format", "nothing").await;
    let structured = |form: Value| json!({ "structured_outputs": form });
    check(structured(json!({ "regex": "(" })), "structured_outputs", "unclosed").await;
    check(structured(json!({ "regex": "a(?=b)" })), "structured_outputs", "look").await;
    check(structured(json!({ "grammar": "start: none" })), "structured_outputs", "none").await;
    check(structured(json!({ "json": "{" })), "structured_outputs", "EOF").await;
    // Too large, and too much: both within a moment.
    let long = json!({ "enum": ["x".repeat(10 << 20)] });
    check(by_schema(&long), "response_format", "at most").await;
    for regex in ["((a{1,100}){1,100}){1,100}b", "(x+x+)+y", "(.*a){25}", "(a|aa)+$"] {
        let body = ask("x", json!({ "structured_outputs": { "regex": regex }, "max_tokens": 4 }));
        let reply = shared().post("/v1/chat/completions", body).await;
        assert!([200, 400].contains(&reply.status.as_u16()), "{regex}: {:?}", reply.body);
    }
    let mut deep = json!({ "type": "integer" });
    for _ in 0..1000 {
        deep = json!({ "type": "array", "items": deep });
    }
    let reply = shared().post("/v1/chat/completions", ask("x", by_schema(&deep))).await;
    assert_eq!(reply.error(), (400, "invalid_json".to_owned()));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("recursion limit"));
    // The same as a text goes past the body's reader.
    let reply = shared()
        .post("/v1/chat/completions", ask("x", structured(json!({ "json": deep.to_string() }))))
        .await;
    assert_eq!(reply.error(), (400, "invalid_grammar".to_owned()));
    std::mem::forget(deep);
}
