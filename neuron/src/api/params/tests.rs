use serde_json::json;

use super::*;
use crate::{defaults::Defaults, engine::Sampling, tools::Choice};

fn parse_at(value: Value, endpoint: Endpoint) -> Result<Params, (String, Option<String>)> {
    let Value::Object(object) = value else { panic!("an object") };
    Params::parse(Fields(&object), endpoint).map_err(|e| (e.body.message, e.body.param))
}

fn parse(value: Value) -> Result<Params, (String, Option<String>)> {
    parse_at(value, Endpoint::Chat)
}

fn tools(value: Value) -> Result<Tools, (String, Option<String>)> {
    let Value::Object(object) = value else { panic!("an object") };
    Tools::parse(Fields(&object)).map_err(|e| (e.body.message, e.body.param))
}

#[test]
fn defaults_are_openais_or_the_models() {
    let params = parse(json!({"model": "m", "unknown": [1], "temperature": null})).unwrap();
    assert_eq!(params.sampling.over(&Defaults::default(), 0), Sampling::default());
    assert_eq!((params.max_tokens, params.stream, params.stop.len(), params.answers), (None, false, 0, 1));
    let model = Defaults { temperature: Some(0.6), top_k: Some(20), ..Defaults::default() };
    let own = parse(json!({"model": "m", "temperature": 0.1, "seed": 7})).unwrap();
    let sampling = own.sampling.over(&model, 2);
    assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.1, 20, Some(9)));
}

#[test]
fn every_field_arrives() {
    let params = parse(json!({
        "model": "m", "temperature": 0, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "seed": -1,
        "repetition_penalty": 1.1, "presence_penalty": -2, "frequency_penalty": 2.0, "n": 2, "best_of": 2,
        "max_tokens": 5, "max_completion_tokens": 6.0, "min_tokens": 3, "stop": ["a", "b"], "stop_token_ids": [4, 5],
        "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true, "logprobs": true,
        "top_logprobs": 3, "logit_bias": {"7": -2.5, "8": 100}, "return_token_ids": true, "reasoning_budget": 9,
        "response_format": {"type": "json_object"},
    }))
    .unwrap();
    let sampling = Sampling {
        temperature: 0.0,
        top_p: 0.5,
        top_k: 40,
        min_p: 0.1,
        repetition_penalty: 1.1,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        logit_bias: [(7, -2.5), (8, 25_500.0)].into(),
        seed: Some(u64::MAX),
    };
    assert_eq!(params.sampling.over(&Defaults::default(), 0), sampling);
    let expected = Params {
        model: "m".into(),
        sampling: params.sampling.clone(),
        max_tokens: Some(6),
        min_tokens: 3,
        stop: vec!["a".into(), "b".into()],
        stop_ids: [4, 5].into(),
        stream: true,
        include_usage: true,
        ignore_end: true,
        answers: 2,
        logprobs: Some(3),
        token_ids: true,
        form: Some(("response_format", Form::object())),
        reasoning_budget: Some(9),
        caller: Arc::default(),
    };
    assert_eq!(params, expected);
    assert_eq!(
        parse(json!({"model": "m", "stop": "x", "top_k": -1, "reasoning_budget": -1})).unwrap().stop,
        ["x"]
    );
    assert_eq!(parse(json!({"model": "m", "logprobs": true})).unwrap().logprobs, Some(0));
    let plain = |body| parse_at(body, Endpoint::Completions).unwrap();
    assert_eq!(plain(json!({"model": "m", "logprobs": 5})).logprobs, Some(5));
    assert_eq!(plain(json!({"model": "m", "echo": true, "max_tokens": 0})).max_tokens, Some(0));
}

#[test]
fn errors_name_the_field() {
    let check_as = |param: &str, value: Value, expected: &str| {
        let mut body = json!({"model": "m"});
        body.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        let (message, got) = parse(body).unwrap_err();
        assert_eq!(got.as_deref(), Some(param), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let check = |name: &str, value: Value, expected: &str| check_as(name, json!({ name: value }), expected);
    check("model", json!(1), "model is a number, where a string is expected");
    check("temperature", json!("hot"), "a number is expected");
    check("temperature", json!(2.1), "2.1 is not between 0 and 2");
    check("top_p", json!(-0.1), "not between 0 and 1");
    check("max_tokens", json!(0), "0 is less than 1");
    check("max_tokens", json!(1.5), "a whole number");
    check("min_tokens", json!(-1), "-1 is less than 0");
    check("stop", json!([1]), "a string or an array of strings");
    check("stop", json!({}), "a string or an array of strings");
    check("stop", json!([""]), "empty");
    check("stop", json!(vec!["x"; 17]), "at most 16");
    check("stop_token_ids", json!([-1]), "an array of token ids");
    check("stop_token_ids", json!(vec![1; 1025]), "at most 1024");
    check("stream", json!("yes"), "true or false");
    check("stream_options", json!({}), "stream to true");
    check("n", json!(0), "0 is not between 1 and 32");
    check("n", json!(33), "33 is not between 1 and 32");
    check("best_of", json!(2), "it has to be n");
    check("logprobs", json!(5), "true or false");
    check("top_logprobs", json!(21), "not between 0 and 20");
    check("top_logprobs", json!(2), "logprobs has to be true");
    check("logit_bias", json!({"x": 2}), "\"x\" is no token id");
    check("logit_bias", json!({"1": "2"}), "an object of numbers");
    check("logit_bias", json!({"1": 101}), "101 is not between -100 and 100");
    check("reasoning_budget", json!(-2), "-2 is less than -1");
    check_as("response_format.type", json!({"response_format": {"type": "xml"}}), "none of");
    check_as("response_format.type", json!({"response_format": {}}), "missing");
    check_as("response_format.json_schema", json!({"response_format": {"type": "json_schema"}}), "missing");
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
    check_as("response_format.json_schema.schema", schema(json!(1)), "an object");
    check_as("structured_outputs", json!({"structured_outputs": {}}), "one of json");
    check_as(
        "structured_outputs",
        json!({"structured_outputs": {"regex": "a", "grammar": "b"}}),
        "one of json",
    );
    check_as("structured_outputs.bnf", json!({"structured_outputs": {"bnf": "a"}}), "no such form");
    check_as("structured_outputs.choice", json!({"structured_outputs": {"choice": []}}), "1 to 1000");
    let both = json!({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}});
    check_as("structured_outputs", both, "says already");
    let (message, param) = parse(json!({})).unwrap_err();
    assert_eq!((message.as_str(), param.as_deref()), ("model is missing", Some("model")));
    let (_, param) = parse_at(json!({"model": "m", "max_tokens": 0}), Endpoint::Completions).unwrap_err();
    assert_eq!(param.as_deref(), Some("max_tokens"));
}

#[test]
fn token_ids_are_the_models() {
    let check = |body: Value| parse(body).unwrap().check_ids(10).map_err(|e| e.body.message);
    assert_eq!(check(json!({"model": "m", "stop_token_ids": [9], "logit_bias": {"0": 1}})), Ok(()));
    let refused = check(json!({"model": "m", "logit_bias": {"10": 1}})).unwrap_err();
    assert_eq!(refused, "logit_bias: there is no token 10: this model has 10");
}

#[test]
fn tools_are_read() {
    let f = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true, "parameters": {"type": "object"}}});
    let got =
        tools(json!({"tools": [f("a"), f("b")], "tool_choice": "required", "parallel_tool_calls": false}))
            .unwrap();
    assert_eq!(got.all.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(got.all[0].strict && !got.parallel);
    assert_eq!(got.choice, Choice::Required);
    let named =
        tools(json!({"tools": [f("a")], "tool_choice": {"type": "function", "function": {"name": "a"}}}));
    assert_eq!(named.unwrap().choice, Choice::Named("a".into()));
    let none = tools(json!({"tools": [f("a")], "tool_choice": "none"})).unwrap();
    assert_eq!((none.offered().len(), none.parallel), (0, true));
    assert_eq!(tools(json!({})).unwrap().choice, Choice::Auto);
}

#[test]
fn wrong_tools_are_named() {
    let check = |value: Value, param: &str, expected: &str| {
        let (message, got) = tools(value).unwrap_err();
        assert_eq!(got.as_deref(), Some(param), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let f = |name: Value| json!({"type": "function", "function": {"name": name}});
    check(json!({"tools": {}}), "tools", "an array");
    check(json!({"tools": [1]}), "tools[0]", "an object");
    check(json!({"tools": [{"type": "retrieval"}]}), "tools[0].type", "only \"function\"");
    check(json!({"tools": [{"type": "function"}]}), "tools[0].function", "missing");
    check(json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name", "missing");
    check(json!({"tools": [f(json!("a")), f(json!(1))]}), "tools[1].function.name", "a string");
    check(json!({"tools": [f(json!(""))]}), "tools[0].function.name", "1 to 128");
    check(json!({"tools": [f(json!("a")), f(json!("a"))]}), "tools[1].function.name", "already");
    let bad = json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": "x"}}]});
    check(bad, "tools[0].function.parameters", "an object");
    check(json!({"tools": vec![f(json!("a")); 1025]}), "tools", "at most 1024");
    check(json!({"tool_choice": "any"}), "tool_choice", "none of");
    check(json!({"tool_choice": "required"}), "tool_choice", "no tools");
    check(json!({"tool_choice": 1}), "tool_choice", "a string or an object");
    check(json!({"tool_choice": {"type": "function"}}), "tool_choice.function.name", "missing");
    let unknown =
        json!({"tools": [f(json!("a"))], "tool_choice": {"type": "function", "function": {"name": "b"}}});
    check(unknown, "tool_choice.function.name", "no tool \"b\"");
    check(json!({"parallel_tool_calls": 1}), "parallel_tool_calls", "true or false");
}
