//! The program `neuron`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use neuron::{
    cli::{Cli, Command},
    config::{Config, process_env},
    server::Server,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is left to blocking work once the daemon has stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    neuron::memory::keep_few_heaps();
    let cli = Cli::parse();
    // Between the lines of a conversation only what is wrong is said.
    let usual = if matches!(cli.command, Command::Run { .. }) { "warn" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let colours =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_ansi(colours).with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("neuron: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check { config } => {
            let config = Config::load(&config.path, &process_env)?;
            println!("the configuration is valid; neuron would listen on {}", config.listen);
            Ok(())
        }
        Command::Run { model, config } => {
            let config = match config {
                Some(path) => Config::load(&path, &process_env)?,
                None => Config::parse("", "nothing", &process_env)?,
            };
            neuron::server::use_threads(config.engine.threads)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let ran = runtime.block_on(neuron::run::run(config, &model));
            runtime.shutdown_timeout(LAST_WORDS);
            ran
        }
        Command::Bench(args) => neuron::bench::run(&args),
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
            served.map(|_| ())
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy)]
enum Stopped {
    /// Whatever ran had its time.
    InOrder,
    /// A second signal came.
    AtOnce,
}

async fn serve(config: Config) -> anyhow::Result<Stopped> {
    let drain = config.drain;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = config.listen;
    let server = Server::start(config).await.with_context(|| format!("cannot serve on {listen}"))?;
    tracing::info!("neuron is listening on http://{}", server.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(seconds = drain.as_secs(), "stopping; running requests may finish");
    tokio::select! {
        () = server.stop() => return Ok(Stopped::InOrder),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::warn!("stopping at once");
    Ok(Stopped::AtOnce)
}
