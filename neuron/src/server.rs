//! The daemon as a whole: built, serving, drained.

use std::{future::IntoFuture, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use futures_util::future::join_all;
use http::{Request, Response};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tower::ServiceExt;

use crate::{
    api::{self, App},
    config::{Config, Devices, Engine},
    device::{DeviceHandle, MakeBackend},
    engine::{Backend, CpuBackend, GpuOptions},
    gpus::Gpus,
    registry::Registry,
};

/// What is left to connections after their sequences have been ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is left to the device's thread then: a step of a large model, but not a load.
const LAST_STEP: Duration = Duration::from_secs(3);

/// Makes what makes a device's backend, and makes it anew once the device was lost, out of the device's number and
/// what computes on it.
pub type Make<'a> = &'a (dyn Fn(usize, CpuBackend) -> MakeBackend + Sync);

fn plain(_: usize, backend: CpuBackend) -> MakeBackend {
    Arc::new(move || Ok(Box::new(backend) as Box<dyn Backend>))
}

/// A daemon that serves.
pub struct Server {
    address: SocketAddr,
    registry: Arc<Registry>,
    drain: Duration,
    stopping: watch::Sender<bool>,
    serving: JoinSet<std::io::Result<()>>,
    router: Router,
}

impl Server {
    /// Starts the device's thread, listens, begins to preload, and serves.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        let gpus = Gpus::find(config.engine.devices).map_err(std::io::Error::other)?;
        Self::start_on(config, gpus, &plain).await
    }

    /// As [`Self::start`], with backends of another make in the CPU's place.
    pub async fn start_with(config: Config, make: Make<'_>) -> std::io::Result<Self> {
        Self::start_on(config, Gpus::none("none is looked for"), make).await
    }

    async fn start_on(config: Config, gpus: Gpus, make: Make<'_>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let mut server = Self::new(config, gpus, listener.local_addr()?, make)?;
        server.registry.preload();
        let mut stopped = server.stopping.subscribe();
        let serve = axum::serve(listener, server.router.clone()).with_graceful_shutdown(async move {
            // An error means that the server was dropped, which is a stop too.
            stopped.wait_for(|stop| *stop).await.ok();
        });
        server.serving.spawn(serve.into_future());
        Ok(server)
    }

    /// One that listens nowhere, for who is in this process: see [`Self::answer`].
    pub fn in_process(config: Config) -> std::io::Result<Self> {
        let nowhere = config.listen;
        let gpus = Gpus::find(config.engine.devices).map_err(std::io::Error::other)?;
        Self::new(Config { tokens: Vec::new(), preload: Vec::new(), ..config }, gpus, nowhere, &plain)
    }

    /// The answer to a request that came by no connection.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn new(config: Config, mut gpus: Gpus, address: SocketAddr, make: Make<'_>) -> std::io::Result<Self> {
        let config = Arc::new(config);
        let devices = devices(&config.engine, &mut gpus, make)?;
        let registry = Registry::new(Arc::clone(&config), devices, gpus);
        registry.watch_devices();
        let (stopping, stopped) = watch::channel(false);
        let router = api::router(App::new(Arc::clone(&registry), address, stopped)?);
        Ok(Self { address, registry, drain: config.drain, stopping, serving: JoinSet::new(), router })
    }

    /// Where it listens; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns once a device is lost and cannot be set up again.
    pub async fn until_gone(&self) {
        self.registry.until_gone().await;
    }

    /// Takes no more connections, lets running requests finish until the deadline, ends the rest, and
    /// returns when the device's thread is gone, at most a few seconds after the deadline.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        if tokio::time::timeout(self.drain, self.serving.join_next()).await.is_err() {
            tracing::warn!("requests still run at the deadline; they are ended");
        }
        join_all(self.registry.devices.iter().map(|device| device.stop(LAST_STEP))).await;
        // Streams that were ended send their error event.
        tokio::time::timeout(LAST_WORDS, self.serving.join_next()).await.ok();
        self.serving.shutdown().await;
        tokio::time::timeout(LAST_WORDS, self.registry.close()).await.ok();
    }
}

/// A thread for each GPU, or for each part of the CPU where there is none. A GPU that cannot be set up is left out, and said why.
fn devices(engine: &Engine, gpus: &mut Gpus, make: Make<'_>) -> std::io::Result<Vec<DeviceHandle>> {
    let backend = |threads| CpuBackend { threads, kv: engine.kv_cache, sequences: engine.max_sequences };
    let count = gpus.usable.len().max(1);
    let threads = (engine.all_threads() / count).max(1);
    let options = GpuOptions { park_bytes: (engine.park_mb() << 20) / count as u64, nccl: engine.nccl };
    let mut of_gpus = Vec::new();
    gpus.keep(|gpu| {
        let name = format!("cuda-dev-{}", of_gpus.len());
        let started = DeviceHandle::start(&name, gpu.backend(backend(threads), options));
        tracing::info!(device = name, gpu = gpu.found.name, memory_mb = gpu.found.total_mb, "a GPU");
        of_gpus.push(started.map_err(|e| e.to_string())?);
        Ok(())
    });
    if !of_gpus.is_empty() {
        return Ok(of_gpus);
    }
    if let (Devices::Cuda, Some(reason)) = (engine.devices, &gpus.reason) {
        return Err(std::io::Error::other(format!(
            "engine.devices is \"cuda\", and no GPU can be used: {reason}"
        )));
    }
    let of_cpu = (0..engine.cpu_devices)
        .map(|n| DeviceHandle::start(&format!("cpu-dev-{n}"), make(n, backend(engine.threads()))));
    of_cpu.collect()
}

/// Makes candle compute on `threads` threads; 0: on all cores. It asks the environment, once and for good,
/// and the environment of a running process cannot be changed safely: so the process starts itself anew
/// under the same number, with the variables set. Call it before anything else runs.
pub fn use_threads(threads: usize) -> std::io::Result<()> {
    const VARIABLES: [&str; 2] = ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"];
    let wanted = threads.to_string();
    let is_set = |name: &&str| std::env::var(name).is_ok_and(|value| value == wanted);
    if threads == 0 || VARIABLES.iter().all(is_set) {
        return Ok(());
    }
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let mut again = std::process::Command::new(std::env::current_exe()?);
    if let Some(program) = program {
        again.arg0(program);
    }
    Err(again.args(arguments).envs(VARIABLES.map(|name| (name, &wanted))).exec())
}
