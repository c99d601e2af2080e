use super::{bindings, limits, state::HostState};
use std::path::Path;
use std::time::Duration;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig,
};

/// How often a running guest can be looked at.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Instances alive at once beside sessions: warm pools and what the gate is trying.
const ASIDE: usize = 128;
/// Sessions where the address space is too small for all: each has four GiB of it, used or not.
const FEW_SESSIONS: usize = 256;

/// Compiled code that is kept; the oldest goes.
const CACHE_BYTES: u64 = 512 << 20;

/// The one engine of the process, and the thread that ticks its epoch.
pub struct PolicyEngine {
    pub(super) engine: Engine,
    pub(super) linker: Linker<HostState>,
    /// What a translator's instance may have, in bytes.
    pub(super) translator_memory: usize,
    /// Sessions that may be open at once.
    pub(crate) sessions: usize,
}

/// The machine cannot run WebAssembly: too little address space, say.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot start: {0}")]
pub struct EngineError(String);

impl PolicyEngine {
    /// `cache`: a directory of the host's own for compiled code; it is made where it is missing. Without
    /// one every start compiles anew. Never one that others write to: what lies there is run.
    ///
    /// `body_limit`: bytes of the largest request, of which a translator needs a few copies.
    ///
    /// Errors when the engine cannot reserve its address space or start its thread.
    pub fn new(cache: Option<&Path>, body_limit: usize) -> Result<Self, EngineError> {
        Self::build(cache, body_limit).map_err(|e| EngineError(format!("{e:#}")))
    }

    fn build(cache: Option<&Path>, body_limit: usize) -> wasmtime::Result<Self> {
        // Past 4 GiB a 32-bit guest could not address it.
        let translator_memory = (limits::MEMORY + 4 * body_limit).min(4 << 30);
        let cache = cache.map(compiled);
        let build = |sessions: usize| {
            let mut config = config(translator_memory, sessions);
            if let Some(Ok(cache)) = &cache {
                config.cache(Some(cache.clone()));
            }
            Ok::<_, wasmtime::Error>((Engine::new(&config)?, sessions))
        };
        if let Some(Err(error)) = &cache {
            tracing::warn!("compiled policies are not kept: {error:#}");
        }
        let (engine, sessions) = build(limits::TRANSLATED_STREAMS).or_else(|error| {
            tracing::warn!("at most {FEW_SESSIONS} translated requests at once: {error:#}");
            build(FEW_SESSIONS)
        })?;
        let mut linker = Linker::new(&engine);
        bindings::host::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut HostState| state)?;
        bindings::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut HostState| state)?;
        let weak = engine.weak();
        std::thread::Builder::new().name("policy-epoch".into()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { engine, linker, translator_memory, sessions })
    }
}

fn compiled(dir: &Path) -> wasmtime::Result<Cache> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut config = CacheConfig::new();
    config.with_directory(dir.canonicalize()?).with_files_total_size_soft_limit(CACHE_BYTES);
    Cache::new(config)
}

fn config(memory: usize, sessions: usize) -> Config {
    let instances = (sessions + ASIDE) as u32;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        // A component of ours is its module and two small ones that the encoder adds.
        .max_core_instances_per_component(8)
        .total_core_instances(instances * 4)
        .total_memories(instances)
        .total_tables(instances * 2)
        .max_memories_per_component(1)
        .max_tables_per_component(4)
        .max_memory_size(memory)
        // Faulting a few pages back in is dearer than keeping them; more would be slots x size. Which they are, the
        // kernel tells where it can (Linux 6.7): a translator's lie far apart, behind a stack that it hardly uses.
        .linear_memory_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto)
        .table_keep_resident(4 << 10);
    let mut config = Config::new();
    config
        // Policies are synchronous; leaving the machinery out makes a call three times cheaper.
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(512 << 10);
    config
}
