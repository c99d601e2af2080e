use serde_json::json;

use super::*;
use crate::tokenizer::MARK;

fn conversation(messages: Json) -> Conversation {
    let Json::Array(messages) = messages else { panic!("messages are an array") };
    let object = |m: Json| if let Json::Object(m) = m { m } else { panic!("a message is an object") };
    Conversation { messages: messages.into_iter().map(object).collect(), ..Conversation::default() }
}

fn render(template: &str, conversation: &Conversation) -> Result<String, String> {
    let template =
        ChatTemplate::new(template, None, "<s>", "</s>", Guard::default()).map_err(|e| e.to_string())?;
    template.render(conversation).map_err(|e| e.to_string())
}

fn check(template: &str, messages: Json, expected: &str) {
    assert_eq!(render(template, &conversation(messages)).as_deref(), Ok(expected), "{template}");
}

#[test]
fn blocks_are_trimmed_as_transformers_trims_them() {
    let template = "{% for m in messages %}\n    {% if true %}\n{{ m.role }}:{{ m['content'] }}\n{% endif %}\n{% endfor %}";
    check(
        template,
        json!([{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]),
        "user:hi\nassistant:ho\n",
    );
}

#[test]
fn python_methods_slices_and_marks_work() {
    let messages = json!([{"role":"user","content":" a,b "}]);
    check("{{ messages[0].content.strip().split(',')[1] }}", messages.clone(), "b");
    check("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}", messages.clone(), "user");
    check("{%- generation -%} x {%- endgeneration %}", messages.clone(), "x");
    check("{% generation %}\nx{% endgeneration %}", messages.clone(), "x");
    check("{{ bos_token }}{{ eos_token }}", messages.clone(), "<s></s>");
    check("{% if tools is not none %}t{% endif %}{% if custom %}c{% endif %}", messages.clone(), "");
    check("{{ messages|length }}{% if loop is defined %}l{% endif %}", messages, "1");
}

#[test]
fn tojson_writes_as_python_does() {
    let messages = json!([{"role":"user","content":"<é'\"&>","list":[1,2.5,true,null],"map":{"a":{}}}]);
    check(
        "{{ messages[0] | tojson }}",
        messages.clone(),
        r#"{"role": "user", "content": "<é'\"&>", "list": [1, 2.5, true, null], "map": {"a": {}}}"#,
    );
    check("{{ messages[0].list | tojson(indent=2) }}", messages, "[\n  1,\n  2.5,\n  true,\n  null\n]");
}

#[test]
fn content_parts_become_text_and_arguments_become_maps() {
    let parts = json!([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]);
    check("{{ messages[0].content }}", parts, "a\nb");
    let call = json!([{"role":"assistant","content":null,
        "tool_calls":[{"function":{"name":"f","arguments":"{\"x\": [1]}"}}]}]);
    let template = "{% set c = messages[0].tool_calls[0].function %}{{ c.name }}:{{ c.arguments.x[0] }}";
    check(template, call, "f:1");
}

#[test]
fn tools_and_arguments_reach_the_template() {
    let mut conversation = conversation(json!([]));
    conversation.tools = vec![json!({"type":"function","function":{"name":"f"}})];
    conversation.arguments.insert("enable_thinking".into(), json!(false));
    conversation.arguments.insert("bos_token".into(), json!("mine"));
    let template = "{{ tools[0].function.name }} {{ enable_thinking }} {{ bos_token }}";
    assert_eq!(render(template, &conversation).as_deref(), Ok("f False <s>"));
}

#[test]
fn errors_are_the_templates_own_words() {
    let check = |template: &str, expected: &str| {
        let error = render(template, &conversation(json!([]))).unwrap_err();
        assert!(error.contains(expected), "{template}: {error}");
    };
    let raised = render("{{ raise_exception('roles must alternate') }}", &conversation(json!([])));
    assert_eq!(raised, Err("roles must alternate".into()));
    check("{% if %}", "syntax error");
    check("{{ messages[0].content.nonsense() }}", "line 1 of the template");
    check("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "fuel");
}

#[test]
fn the_template_for_tools_is_used_with_tools() {
    let template = ChatTemplate::new("plain", Some("with tools"), "", "", Guard::default()).unwrap();
    let mut conversation = conversation(json!([]));
    assert_eq!(template.render(&conversation).unwrap(), "plain");
    conversation.tools = vec![json!({})];
    assert_eq!(template.render(&conversation).unwrap(), "with tools");
    let only = ChatTemplate::new("plain", None, "", "", Guard::default()).unwrap();
    assert_eq!(only.render(&conversation).unwrap(), "plain");
    assert!(ChatTemplate::new("plain", Some("{% if %}"), "", "", Guard::default()).is_err());
}

#[test]
fn the_mark_is_refused_wherever_it_is() {
    let check = |change: &dyn Fn(&mut Conversation)| {
        let mut conversation = conversation(json!([{ "role": "user", "content": "x" }]));
        change(&mut conversation);
        let error = render("{{ messages[0].content }}", &conversation).unwrap_err();
        assert!(error.contains("U+FDD0"), "{error}");
    };
    let marked = format!("a{MARK}b");
    check(&|c| drop(c.messages[0].insert("content".into(), json!([{ "type": "text", "text": marked }]))));
    check(&|c| drop(c.messages[0].insert(marked.clone(), json!(1))));
    check(&|c| c.tools = vec![json!({ "name": [marked] })]);
    check(&|c| drop(c.arguments.insert("a".into(), json!(marked))));
    // Hidden in arguments that are JSON within JSON.
    let call = json!([{ "function": { "name": "f", "arguments": "{\"a\": \"\\ufdd0\"}" } }]);
    check(&|c| drop(c.messages[0].insert("tool_calls".into(), call.clone())));
}
