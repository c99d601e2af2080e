//! The program `neuron`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use neuron::{
    cli::{Cli, Command},
    config::{Config, process_env},
    manage,
    server::Server,
    shelf::Shelf,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is left to blocking work once the daemon has stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    neuron::memory::keep_little();
    let cli = Cli::parse();
    // To people at a terminal only what is wrong is said.
    let is_server = matches!(cli.command, Command::Serve { .. } | Command::Registry { .. });
    let usual = if is_server { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let colours =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_ansi(colours).with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli.command, cli.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match cli.json {
                true => {
                    let error = serde_json::json!({"message": format!("{error:#}"), "exit_status": 1});
                    eprintln!("{}", serde_json::json!({ "error": error }));
                }
                false => eprintln!("neuron: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "neuron", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => manual(&dir),
        Command::Check { config } => {
            let config = Config::load(&config.path, &process_env)?;
            match json {
                true => println!("{}", serde_json::json!({"listen": config.listen})),
                false => println!("the configuration is valid; neuron would listen on {}", config.listen),
            }
            Ok(())
        }
        Command::Run { model, config } => {
            let config = configured(config)?;
            neuron::server::use_threads(config.engine.threads)?;
            until_done(neuron::run::run(config, &model))
        }
        Command::Pull { model } => {
            let config = configured(model.config)?;
            until_done(manage::pull(&config, &model.id, model.quant.as_deref(), json))
        }
        Command::Preflight { model } => {
            let config = configured(model.config)?;
            until_done(manage::preflight(&config, &model.id, model.quant.as_deref(), json))
        }
        Command::List { config } => manage::list(&configured(config)?, json),
        Command::Rm { model, config } => manage::remove(&configured(config)?, &model, json),
        Command::Verify { model, config } => manage::verify(&configured(config)?, model.as_deref(), json),
        Command::Registry { dir, listen, token_env, insecure_open } => {
            let token = token_env.map(|name| {
                let token = process_env(&name).filter(|token| !token.trim().is_empty());
                token.with_context(|| format!("the variable {name} is not set"))
            });
            let token = token.transpose()?;
            if token.is_none() && !insecure_open && !listen.ip().is_loopback() {
                bail!(
                    "{listen} is open to other hosts: name a token with --token-env, or say --insecure-open"
                );
            }
            until_done(give_out(dir, listen, token))
        }
        Command::Bench(args) => neuron::bench::run(&args),
        Command::BenchGpu(mut args) => {
            args.json = json;
            neuron::bench::run_gpu(&args)
        }
        Command::BenchSampling(args) => neuron::bench::run_sampling(&args),
        Command::Serve { config, listen } => {
            let mut config = Config::load(&config.path, &process_env)?;
            if let Some(listen) = listen {
                config = config.listening_on(listen)?;
            }
            neuron::server::use_threads(config.engine.threads)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let served = runtime.block_on(serve(config));
            // A thread that still reads a model would be waited for without end.
            match served {
                Ok(Stopped::AtOnce) => runtime.shutdown_background(),
                _ => runtime.shutdown_timeout(LAST_WORDS),
            }
            match served? {
                Stopped::DeviceLost => bail!("a device was lost and cannot be set up again by this process"),
                Stopped::InOrder | Stopped::AtOnce => Ok(()),
            }
        }
    }
}

/// One page a command.
fn manual(dir: &Path) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    write().with_context(|| format!("the pages cannot be written to {}", dir.display()))
}

fn configured(path: Option<PathBuf>) -> anyhow::Result<Config> {
    Ok(match path {
        Some(path) => Config::load(&path, &process_env)?,
        None => Config::parse("", "nothing", &process_env)?,
    })
}

fn until_done(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WORDS);
    done
}

async fn give_out(dir: PathBuf, listen: SocketAddr, token: Option<String>) -> anyhow::Result<()> {
    let shelf = Shelf::new(dir.clone(), token.as_deref().map(str::trim));
    let shelf = shelf.with_context(|| format!("{}", dir.display()))?;
    let mut serving = shelf.serve(listen).await.with_context(|| format!("cannot serve on {listen}"))?;
    tracing::info!(dir = %dir.display(), "giving out models on http://{}", serving.address());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = serving.ended() => Ok(ended?),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// How serving ended.
#[derive(Clone, Copy)]
enum Stopped {
    /// A device was lost for good, and a new process may have it again.
    DeviceLost,
    /// Whatever ran had its time.
    InOrder,
    /// A second signal came.
    AtOnce,
}

async fn serve(config: Config) -> anyhow::Result<Stopped> {
    let (drain, exit_when_lost) = (config.drain, config.engine.exit_when_lost);
    let mut ended = Stopped::InOrder;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = config.listen;
    let server = Server::start(config).await.with_context(|| format!("cannot serve on {listen}"))?;
    tracing::info!("neuron is listening on http://{}", server.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = server.until_gone(), if exit_when_lost => ended = Stopped::DeviceLost,
    }
    tracing::info!(seconds = drain.as_secs(), "stopping; running requests may finish");
    tokio::select! {
        () = server.stop() => return Ok(ended),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::warn!("stopping at once");
    Ok(Stopped::AtOnce)
}
