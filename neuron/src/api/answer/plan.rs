//! What a request asks of the engine, and how what it draws becomes an answer.

use std::sync::Arc;

use super::text::Output;
use crate::{
    api::{
        App,
        error::ApiError,
        params::{Params, Tools},
    },
    engine::{Generation, Grammar, Guide, Thoughts},
    grammar::{Bound, Form, Grammars, after_thoughts},
    reasoning::Marks,
    registry::Ready,
    template::ChatTemplate,
    tools::{Choice, Tool, bind},
};

/// One answer to a prompt.
pub(in crate::api) struct Plan {
    pub(super) generation: Generation,
    pub(super) output: Output,
}

/// What is worked out of a request beside its prompt, off the threads that serve.
#[derive(Default)]
pub(in crate::api) struct Prepared {
    grammar: Option<Box<dyn Grammar>>,
    /// Where the model thinks, and whether the prompt has opened its thoughts.
    thoughts: Option<(Marks, bool)>,
    budget: Option<Thoughts>,
    tools: Option<Tools>,
}

/// `opened`: the prompt as text, where a template made it.
pub(in crate::api) fn prepare(
    ready: &Ready,
    params: &Params,
    tools: Option<&Tools>,
    opened: Option<&str>,
) -> Result<Prepared, ApiError> {
    let template = ready.text.template.as_ref().filter(|_| opened.is_some());
    let thoughts = template.and_then(|template| template.thoughts);
    let thoughts = thoughts.map(|marks| (marks, opened.is_some_and(|prompt| marks.are_open(prompt))));
    let bound = bound(ready, params, tools, template, thoughts)?;
    let grammar = match bound {
        None => None,
        Some((param, bound)) => Some(compile(ready, param, &bound)?),
    };
    let budget = match (params.reasoning_budget, thoughts) {
        (Some(limit), Some((marks, open))) => {
            let ids = |text: &str| Arc::<[u32]>::from(ready.text.tokenizer.encode(text));
            let (start, end) = (ids(marks.start), ids(marks.end));
            Some(Thoughts { open, start, end, limit })
        }
        _ => None,
    };
    let tools = tools.filter(|tools| !tools.offered().is_empty()).cloned();
    Ok(Prepared { grammar, thoughts, budget, tools })
}

fn compile(ready: &Ready, param: &str, bound: &Bound) -> Result<Box<dyn Grammar>, ApiError> {
    let wrong = |e| ApiError::invalid(param, "invalid_grammar", format!("{param}: {e}"));
    ready.text.grammars().map_err(wrong)?.compile(bound).map_err(wrong)
}

/// What the answer is bound to, and the field that says so.
fn bound(
    ready: &Ready,
    params: &Params,
    tools: Option<&Tools>,
    template: Option<&ChatTemplate>,
    thoughts: Option<(Marks, bool)>,
) -> Result<Option<(&'static str, Bound)>, ApiError> {
    let literal = |mark: &str| Grammars::literal(&ready.text.tokenizer, mark);
    let after = thoughts.map(|(marks, open)| after_thoughts(marks, open, literal));
    let called = match (tools, template) {
        (Some(tools), Some(template)) => calls(tools, template, &literal)?,
        _ => None,
    };
    let form = match (called, params.form.clone()) {
        // A call that has to be made is no place for another form.
        (Some((_, true)), Some((param, _))) => {
            let text = format!("{param}: tool_choice says already what the answer has to be");
            return Err(ApiError::invalid(param, "invalid_value", text));
        }
        (Some((form, true)), None) => Some(("tool_choice", form)),
        // The answer is what the form binds; calls are found in it all the same, where it allows any.
        (_, Some(form)) => Some(form),
        (Some((form, false)), None) => Some(("tools", form)),
        (None, None) => None,
    };
    Ok(form.map(|(param, form)| (param, Bound { form, after })))
}

/// The grammar of calls, and whether one has to be made.
fn calls(
    tools: &Tools,
    template: &ChatTemplate,
    literal: &impl Fn(&str) -> String,
) -> Result<Option<(Form, bool)>, ApiError> {
    let all: Vec<&Tool> = match &tools.choice {
        Choice::None => return Ok(None),
        // Nothing binds calls that may be made anyhow.
        Choice::Auto if !tools.all.iter().any(|tool| tool.strict) => return Ok(None),
        Choice::Auto | Choice::Required => tools.all.iter().collect(),
        Choice::Named(name) => tools.all.iter().filter(|tool| tool.name == *name).collect(),
    };
    let forced = tools.choice != Choice::Auto;
    // One that is named is called once.
    let many = tools.parallel && !matches!(tools.choice, Choice::Named(_));
    let lark = bind(template.notation, &all, many, !forced, literal);
    let lark = lark.map_err(|e| ApiError::invalid("tools", "invalid_grammar", format!("tools: {e}")))?;
    Ok(Some((Form::Lark(lark), forced)))
}

impl Prepared {
    /// All answers to `prompt`. `param`: the field that the prompt came from.
    pub(in crate::api) fn plans(
        self,
        app: &App,
        ready: &Ready,
        params: &Params,
        prompt: &[u32],
        prompt_logprobs: Option<usize>,
        param: &str,
    ) -> Result<Vec<Plan>, ApiError> {
        let default = app.registry.config.engine.default_max_tokens;
        let max_tokens = room(param, prompt.len(), ready.context, params.max_tokens, default)?;
        let notation = ready.text.template.as_ref().map(|template| template.notation);
        let tools = self.tools.and_then(|tools| Some((notation?, tools)));
        let output = Output::new(params, self.thoughts, tools);
        let plan = |number| {
            let grammar = self.grammar.as_ref().map(|grammar| grammar.fork());
            let generation = Generation {
                model: ready.key,
                caller: Arc::clone(&params.caller),
                prompt: prompt.to_vec(),
                max_tokens,
                min_tokens: params.min_tokens,
                sampling: params.sampling.over(&ready.text.defaults, number),
                end: Arc::clone(&ready.end),
                ignore_end: params.ignore_end,
                stops: Arc::clone(&params.stop_ids),
                logprobs: params.logprobs,
                prompt_logprobs,
                pooling: None,
                guide: grammar.map(|grammar| Guide::new(grammar, &app.guides)),
                thoughts: self.budget.clone(),
            };
            Plan { generation, output: output.clone() }
        };
        Ok((0..params.answers).map(plan).collect())
    }
}

/// Tokens that the answer may have: what was asked for, as far as the window has room.
fn room(
    param: &str,
    prompt: usize,
    context: u64,
    asked: Option<usize>,
    default: u64,
) -> Result<usize, ApiError> {
    let window = usize::try_from(context).unwrap_or(usize::MAX);
    if prompt == 0 {
        return Err(ApiError::invalid(param, "invalid_value", "the prompt has no tokens"));
    }
    if prompt >= window {
        return Err(ApiError::context_length(param, "has", prompt as u64, context));
    }
    let default = if default == 0 { usize::MAX } else { usize::try_from(default).unwrap_or(usize::MAX) };
    Ok(asked.unwrap_or(default).min(window - prompt))
}

#[cfg(test)]
mod tests {
    use neuron_protocol::ErrorBody;

    use super::*;

    #[test]
    fn an_answer_gets_what_was_asked_for_or_what_is_left() {
        let check = |prompt, asked, default, expected| {
            let got = room("prompt", prompt, 100, asked, default).map_err(|e: ApiError| {
                let ErrorBody { code, prompt_len, max, .. } = e.body;
                (code.unwrap(), prompt_len, max)
            });
            assert_eq!(got, expected, "{prompt} {asked:?} {default}");
        };
        check(40, Some(10), 0, Ok(10));
        check(40, Some(90), 0, Ok(60));
        check(40, None, 0, Ok(60));
        check(40, None, 20, Ok(20));
        check(99, Some(9), 0, Ok(1));
        check(100, Some(1), 0, Err(("context_length_exceeded".to_owned(), Some(100), Some(100))));
        check(0, None, 0, Err(("invalid_value".to_owned(), None, None)));
    }
}
