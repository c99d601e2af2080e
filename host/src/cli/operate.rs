//! `cortex load`, `unload`, `drain` and `pin`: what an operator asks of a running gateway.

use super::print_json;
use super::screen::shown;
use super::target::Target;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// A load takes what it takes.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

#[derive(clap::Args)]
pub(in crate::cli) struct LoadArgs {
    /// A model of the catalogue, or an alias
    model: String,
    /// The neuron; without it the one that suits best
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(in crate::cli) struct UnloadArgs {
    model: String,
    /// The neuron; without it every one that has it
    #[arg(long)]
    node: Option<String>,
    /// Also where it is in use, once that has ended
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(in crate::cli) struct DrainArgs {
    /// The neuron that gets nothing new
    node: String,
    /// Takes it back
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(in crate::cli) struct PinArgs {
    /// The model that is not unloaded for another, until the gateway restarts
    model: String,
    /// Takes it back
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn load(args: &LoadArgs, json: bool) -> anyhow::Result<()> {
    let said = ask(&args.target, "/admin/load", &json!({"model": args.model, "node": args.node}))?;
    if json {
        return print_json(&said);
    }
    println!("{} is loaded on {}", text(&said["model"]), names(&said["nodes"]));
    Ok(())
}

pub(super) fn unload(args: &UnloadArgs, json: bool) -> anyhow::Result<()> {
    let body = json!({"model": args.model, "node": args.node, "drain": args.drain});
    let said = ask(&args.target, "/admin/unload", &body)?;
    if json {
        return print_json(&said);
    }
    println!("{} is unloaded from {}", text(&said["model"]), names(&said["nodes"]));
    Ok(())
}

pub(super) fn drain(args: &DrainArgs, json: bool) -> anyhow::Result<()> {
    let said = ask(&args.target, "/admin/drain", &json!({"node": args.node, "on": !args.undo}))?;
    match args.undo {
        _ if json => print_json(&said)?,
        true => println!("{} gets requests again", text(&said["node"])),
        false => {
            println!("{} gets nothing new; {} requests run there", text(&said["node"]), said["in_flight"])
        }
    }
    Ok(())
}

pub(super) fn pin(args: &PinArgs, json: bool) -> anyhow::Result<()> {
    let said = ask(&args.target, "/admin/pin", &json!({"model": args.model, "on": !args.undo}))?;
    if json {
        return print_json(&said);
    }
    let is = if said["pinned"] == true { "pinned" } else { "not pinned" };
    println!("{} is {is}, {}", text(&said["model"]), text(&said["note"]));
    Ok(())
}

fn ask(target: &Target, path: &str, body: &Value) -> anyhow::Result<Value> {
    target.ask(Method::POST, path, body.to_string().into(), LIMIT)
}

fn text(value: &Value) -> String {
    shown(value.as_str().unwrap_or("-"), &[])
}

fn names(value: &Value) -> String {
    let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    shown(&names.join(", "), &[])
}
