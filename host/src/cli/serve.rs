use crate::config::Config;
use crate::gateway::Gateway;
use crate::server::{Listeners, Watches};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_ansi(colours).with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config::load(path)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config, path))
}

async fn serve(config: Config, path: &Path) -> anyhow::Result<()> {
    // Before anybody knows that it runs: a SIGHUP that nobody receives ends the process.
    let received = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let listeners = Listeners::bind(&config).await?;
    let gateway = Gateway::new(config, path.to_owned())?;
    let watches = Watches::start(&gateway)?;
    listeners.announce(gateway.config.load().tls.as_ref())?;
    let signals = gateway.tasks.spawn(signals(gateway.clone(), received));
    listeners.serve(gateway).await;
    signals.abort();
    drop(watches);
    Ok(())
}

/// SIGTERM and SIGINT end the gateway, SIGHUP reloads its configuration.
async fn signals(gateway: Arc<Gateway>, received: [std::io::Result<Signal>; 3]) {
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = received else {
        tracing::error!("signals cannot be received; only a kill ends this process");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tokio::task::block_in_place(|| gateway.reload()),
        }
    }
    gateway.leave();
    let delay = gateway.config.load().drain_delay;
    if !delay.is_zero() {
        tracing::info!("/health fails; in {delay:?}, or at a second signal, no more connections are taken");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    tracing::info!("shutting down");
    gateway.shutdown.cancel();
}
