//! `cargo xtask demo`: the main job on this machine, from nothing to two answers and a live swap.

mod ask;
mod fleet;
mod swap;

use crate::{release, setup};
use anyhow::{Result, bail};
use fleet::Fleet;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after the checks, with an error if one failed
    #[arg(long)]
    once: bool,
}

impl Args {
    pub(crate) fn once() -> Self {
        Self { once: true }
    }
}

const QUESTION: &str = "What is the capital of France? Answer in one sentence.";

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    println!("building cortex and neuron in release");
    release::build()?;
    let fleet = Fleet::start()?;
    println!("neuron  {}   (log: {})", fleet.neuron, fleet.log("neuron").display());
    println!("cortex  {}   (log: {})", fleet.gateway, fleet.log("cortex").display());

    let mut failed = Vec::new();
    let mut check = |name: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("FAILED {name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    check("openai", openai(&fleet));
    check("anthropic", anthropic(&fleet));
    check("models", models(&fleet));
    check("swap", swap::run(&fleet));
    if !failed.is_empty() {
        bail!("the demo failed: {}", failed.join(", "));
    }
    println!("\nall well\n");
    help(&fleet);
    if args.once {
        return Ok(());
    }
    println!("\nCtrl-C ends both.");
    fleet.wait()
}

fn openai(fleet: &Fleet) -> Result<()> {
    println!(
        "\n> OpenAI chat completions, streamed. Nothing is loaded yet: the first question loads the model."
    );
    let body = json!({"model": fleet.model, "stream": true, "max_tokens": 48, "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}]});
    let word = |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(String::from);
    let answer = ask::streamed(fleet, "/v1/chat/completions", &body, word)?;
    if !answer.events.iter().any(|e| e["choices"][0]["finish_reason"].is_string()) {
        bail!("the stream had no finish_reason");
    }
    ask::report(fleet, &answer)
}

fn anthropic(fleet: &Fleet) -> Result<()> {
    println!("\n> Anthropic Messages, streamed, translated by a policy.");
    let body = json!({"model": fleet.model, "stream": true, "max_tokens": 48, "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}]});
    let word = |event: &Value| event["delta"]["text"].as_str().map(String::from);
    let answer = ask::streamed(fleet, "/v1/messages", &body, word)?;
    if answer.events.last().map(|e| &e["type"]) != Some(&json!("message_stop")) {
        bail!("the stream did not end with message_stop");
    }
    ask::report(fleet, &answer)
}

fn models(fleet: &Fleet) -> Result<()> {
    println!("\n> GET /v1/models");
    let list = ask::get(&format!("{}/v1/models", fleet.gateway))?;
    let Some(data) = list["data"].as_array().filter(|d| !d.is_empty()) else { bail!("the list is empty") };
    for model in data {
        let on: Vec<&str> =
            model["locations"].as_array().into_iter().flatten().filter_map(|l| l["node"].as_str()).collect();
        println!(
            "  {:<44} loaded: {:<5} on: {}",
            model["id"].as_str().unwrap_or("?"),
            model["loaded"],
            on.join(", ")
        );
    }
    if data.iter().all(|m| m["loaded"] != true) {
        bail!("no model is loaded after two answers");
    }
    Ok(())
}

fn help(fleet: &Fleet) {
    let Fleet { gateway, admin, metrics, model, .. } = fleet;
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64, "stream": true});
    println!("OpenAI base URL     {gateway}/v1");
    println!("Anthropic base URL  {gateway}");
    println!("console             {admin}/");
    println!("status              target/release/cortex status --watch --url {admin}");
    println!("metrics             {metrics}/metrics");
    println!("\ncurl -N {gateway}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{body}'");
    println!(
        "\ncurl -N {gateway}/v1/messages -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' \\\n  -d '{body}'"
    );
}
