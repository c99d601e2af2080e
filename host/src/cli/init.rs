//! `cortex init`: a first configuration, from what is found.

mod files;
mod look;

use super::screen::shown;
use crate::config::{Address, Config};
use anyhow::{Context, bail};
use look::Found;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that the files go to
    #[arg(long, default_value = "/etc/cortex")]
    dir: PathBuf,
    /// A neuron: HOST, HOST:PORT, a URL, or a network such as 10.0.0.0/24 to look through; may be given several times
    #[arg(long)]
    neuron: Vec<String>,
    /// The environment variable with the bearer token that the neurons want; written as their token_env
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Where clients are to be served
    #[arg(long, default_value = "0.0.0.0:31313")]
    listen: String,
    /// Where operators are to be served; with an address that others reach, an admin key is made
    #[arg(long, default_value = "127.0.0.1:31315")]
    admin_listen: String,
    /// Directories of policies, the last of which takes uploads
    #[arg(long)]
    policies: Vec<PathBuf>,
    /// Makes a key for clients; without one, only private networks are served
    #[arg(long)]
    client_key: bool,
    /// Makes an admin key, which the console and the command line then want
    #[arg(long)]
    admin_key: bool,
    /// Asks nothing
    #[arg(long, short)]
    yes: bool,
    /// Replaces files that are there; the old ones stay beside them as *.bak, *.bak1, …
    #[arg(long)]
    force: bool,
}

/// What is to be written.
struct Answers {
    listen: String,
    admin_listen: String,
    policies: Vec<PathBuf>,
    found: Vec<Found>,
    token_env: Option<String>,
    /// Secret and its place in the file.
    client_key: Option<String>,
    admin_key: Option<String>,
}

pub(super) fn run(args: &Args, is_json: bool) -> anyhow::Result<()> {
    let paths = ["cortex.toml", "models.toml"].map(|name| args.dir.join(name));
    if let Some(there) = paths.iter().find(|path| path.exists() && !args.force) {
        bail!("{} is there already; --force replaces it and keeps the old one as *.bak", there.display());
    }
    let asks = !args.yes && !is_json && std::io::stdin().is_terminal();
    let mut wanted = args.neuron.clone();
    if wanted.is_empty() && asks {
        let said = ask(
            "Addresses of neurons (HOST, HOST:PORT or NETWORK/BITS, with blanks between them)",
            "127.0.0.1",
        )?;
        wanted = said.split([' ', ',']).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    }
    if wanted.is_empty() {
        bail!("no neuron: give addresses with --neuron HOST[:PORT]");
    }
    let listen =
        if asks { ask("Where are clients to be served", &args.listen)? } else { args.listen.clone() };
    let is_open = args.admin_listen.parse::<Address>().is_ok_and(|address| !address.is_local());
    let admin_key = args.admin_key
        || is_open
        || (asks
            && yes(
                "Make an admin key (without one, programs and people on this machine may do everything)",
            )?);
    let client_key = args.client_key
        || (asks && yes("Make a key for clients (without one, everybody on private networks is served)")?);
    let found = look::all(&wanted, token(args)?.as_deref())?;
    let answers = Answers {
        listen,
        admin_listen: args.admin_listen.clone(),
        policies: args.policies.clone(),
        found,
        token_env: args.token_env.clone(),
        client_key: client_key.then(secret).transpose()?,
        admin_key: admin_key.then(secret).transpose()?,
    };
    let texts = [files::cortex(&answers), files::models(&answers.found)];
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{} cannot be made", args.dir.display()))?;
    let config = proven(&args.dir, &texts)?;
    for (path, text) in paths.iter().zip(&texts) {
        write(path, text)?;
    }
    match is_json {
        true => super::print_json(&json!({
            "files": paths, "neurons": answers.found, "models": config.catalogue.models().map(|m| &m.id).collect::<Vec<_>>(),
            "client_key": answers.client_key, "admin_key": answers.admin_key, "notes": config.doubts(),
        })),
        false => {
            told(&answers, &paths, &config);
            Ok(())
        }
    }
}

fn told(answers: &Answers, paths: &[PathBuf; 2], config: &Config) {
    for found in &answers.found {
        println!("{}: {}", found.endpoint, shown(&found.said(), &[]));
    }
    println!("\n{} and {} are written.", paths[0].display(), paths[1].display());
    config.doubts().iter().for_each(|doubt| println!("note: {doubt}"));
    for (what, key, how) in [
        ("clients", &answers.client_key, "Authorization: Bearer"),
        ("operators", &answers.admin_key, "in CORTEX_ADMIN_KEY, or at the console"),
    ] {
        if let Some(key) = key {
            println!("The key for {what} ({how}), which is kept nowhere: {key}");
        }
    }
    println!("\nNext: cortex check --config {0}\n      cortex serve --config {0}", paths[0].display());
    println!("      the console: http://{}/", answers.admin_listen);
}

/// The token of the neurons, where they want one.
fn token(args: &Args) -> anyhow::Result<Option<String>> {
    let Some(name) = &args.token_env else { return Ok(None) };
    let token = std::env::var(name).ok().filter(|token| !token.trim().is_empty());
    token.map(Some).with_context(|| format!("--token-env: the variable {name} is not set"))
}

/// What is to be written, as the gateway reads it: beside its place, so that a mistake replaces nothing.
fn proven(dir: &Path, texts: &[String; 2]) -> anyhow::Result<Config> {
    let apart = dir.join(format!(".init-{:016x}", crate::request::seed()));
    std::fs::create_dir(&apart).with_context(|| format!("{} cannot be made", apart.display()))?;
    let written = ["cortex.toml", "models.toml"]
        .iter()
        .zip(texts)
        .try_for_each(|(name, text)| std::fs::write(apart.join(name), text));
    let loaded =
        written.map_err(anyhow::Error::from).and_then(|()| Ok(Config::load(&apart.join("cortex.toml"))?));
    let _only_clutter = std::fs::remove_dir_all(&apart);
    loaded
}

/// Nothing that was there is lost: the oldest is *.bak, later ones have numbers.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if path.exists() {
        let names = std::iter::once("toml.bak".to_owned()).chain((1..).map(|n| format!("toml.bak{n}")));
        let mut free = names.map(|end| path.with_extension(end)).filter(|kept| !kept.exists());
        let kept = free.next().unwrap_or_else(|| path.with_extension("toml.bak"));
        std::fs::rename(path, &kept).with_context(|| format!("{} cannot be kept", path.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn ask(question: &str, usual: &str) -> anyhow::Result<String> {
    print!("{question} [{usual}]: ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let said = line.trim();
    Ok(if said.is_empty() { usual.to_owned() } else { said.to_owned() })
}

fn yes(question: &str) -> anyhow::Result<bool> {
    Ok(ask(&format!("{question}? y/n"), "y")?.to_lowercase().starts_with('y'))
}

/// 32 bytes of the system's randomness, in hexadecimal.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.context("/dev/urandom cannot be read")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
