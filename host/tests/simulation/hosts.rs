//! Nodes that exist in memory alone, behind the fleet's own seam. They keep their rules whatever they are
//! asked: what a gateway must not do is written down as a breach.

use cortex::fleet::{Answer, Deaf, Hosts, Listener, Node, Shift};
use cortex::upstream::UpstreamError;
use http::StatusCode;
use neuron_protocol::{
    Defragged, Device, DeviceHealth, Discovery, Health, LoadRequest, LoadResponse, ModelInfo, ModelLoad,
    ModelStatus, Preflight, StillNeeded, UnloadMode, UnloadRefused, UnloadRequest, UnloadResponse, feature,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// What a question takes over the network.
const WIRE: Duration = Duration::from_millis(1);

/// What is waited for an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(3);

/// A model as it really is.
#[derive(Debug, Clone)]
pub struct Weights {
    pub mb: u64,
    pub pinned: bool,
    /// Nothing may unload it sooner.
    pub min_residency: Duration,
}

#[derive(Debug, Clone)]
pub struct Resident {
    pub device: usize,
    pub since: Option<Instant>,
    pub in_flight: u64,
    pub idle_since: Instant,
}

#[derive(Debug, Default)]
pub struct SimNode {
    /// MiB of each device.
    pub devices: Vec<u64>,
    pub residents: BTreeMap<String, Resident>,
    /// MiB a second.
    pub speed: u64,
    pub capacity: u64,
    /// Nobody is there.
    pub dead: bool,
    /// It takes questions and answers none.
    pub hangs: bool,
    /// Loads of these fail with a 500.
    pub spoiled: BTreeSet<String>,
    /// It says that all of its memory is free.
    pub lies: bool,
    pub features: Vec<String>,
    pub defrags: u32,
}

/// What happened.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub loads: u64,
    pub unloads: u64,
    pub breaches: Vec<String>,
}

pub struct SimHosts {
    pub nodes: Mutex<BTreeMap<String, SimNode>>,
    pub weights: BTreeMap<String, Weights>,
    tally: Mutex<Tally>,
}

impl SimNode {
    fn used(&self, weights: &BTreeMap<String, Weights>, device: usize) -> u64 {
        let there = self.residents.iter().filter(|(_, resident)| resident.device == device);
        there.map(|(id, _)| weights[id].mb).sum()
    }
}

impl SimHosts {
    pub fn new(nodes: BTreeMap<String, SimNode>, weights: BTreeMap<String, Weights>) -> Arc<Self> {
        Arc::new(Self { nodes: Mutex::new(nodes), weights, tally: Mutex::default() })
    }

    pub fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, SimNode>> {
        self.nodes.lock().unwrap()
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    fn breach(&self, what: String) {
        self.tally.lock().unwrap().breaches.push(what);
    }

    /// A request begins on the node; `false`: the model is not there.
    pub fn begin(&self, node: &str, model: &str) -> bool {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(node).unwrap();
        match node.residents.get_mut(model).filter(|resident| resident.since.is_some()) {
            Some(resident) if !node.dead => {
                resident.in_flight += 1;
                true
            }
            _ => false,
        }
    }

    pub fn end(&self, node: &str, model: &str) {
        if let Some(resident) = self.nodes().get_mut(node).and_then(|node| node.residents.get_mut(model)) {
            resident.in_flight = resident.in_flight.saturating_sub(1);
            resident.idle_since = Instant::now();
        }
    }

    /// The node dies, and forgets what it had.
    pub fn kill(&self, node: &str) {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(node).unwrap();
        node.dead = true;
        node.residents.clear();
    }

    pub fn revive(&self, node: &str) {
        self.nodes().get_mut(node).unwrap().dead = false;
    }

    /// Something that the node answers, a moment later, unless it is dead.
    async fn answer<T>(
        &self,
        node: &Node,
        say: impl FnOnce(&mut SimNode) -> Result<T, UpstreamError>,
    ) -> Result<T, UpstreamError> {
        tokio::time::sleep(WIRE).await;
        let hangs = self.nodes()[&node.name].hangs;
        if hangs {
            tokio::time::sleep(PATIENCE).await;
            return Err(UpstreamError::Timeout(PATIENCE));
        }
        let mut nodes = self.nodes();
        let node = nodes.get_mut(&node.name).unwrap();
        if node.dead {
            return Err(UpstreamError::Connect { why: "connection refused".into(), refused: true });
        }
        let said = say(node);
        for (device, total) in node.devices.iter().enumerate() {
            let used = node.used(&self.weights, device);
            if used > *total {
                self.breach(format!("device {device} holds {used} of {total} MiB"));
            }
        }
        said
    }

    fn begin_load(&self, node: &mut SimNode, request: &LoadRequest) -> Result<bool, UpstreamError> {
        let id = &request.model_id;
        if let Some(resident) = node.residents.get(id) {
            return Ok(resident.since.is_some());
        }
        let wanted = self.weights[id].mb;
        let free = |device: usize| node.devices[device] - node.used(&self.weights, device);
        let device = match &request.devices {
            Some(devices) => devices[0] as usize,
            None => (0..node.devices.len()).max_by_key(|&device| free(device)).unwrap(),
        };
        if free(device) < wanted {
            let error = json!({"kind": "insufficient_vram", "message": "no room", "required_mb": wanted,
                               "free_mb": free(device), "device": device});
            return Err(refusal(507, &json!({"error": error})));
        }
        let resident = Resident { device, since: None, in_flight: 0, idle_since: Instant::now() };
        node.residents.insert(id.clone(), resident);
        Ok(false)
    }

    fn take_off(&self, node: &mut SimNode, request: &UnloadRequest) -> Result<UnloadResponse, UpstreamError> {
        let id = &request.model_id;
        let Some(resident) = node.residents.get(id) else {
            return Err(refusal(404, &json!({"error": "no"})));
        };
        let weights = &self.weights[id];
        if resident.in_flight > 0 {
            let refused = UnloadRefused::from(StillNeeded::Busy { in_flight: resident.in_flight });
            if request.mode == Some(UnloadMode::IfIdle) {
                return Err(refusal(409, &serde_json::to_value(refused).unwrap()));
            }
            self.breach(format!("{id} was busy and was to go"));
        }
        if weights.pinned {
            self.breach(format!("{id} is pinned and went"));
        }
        match resident.since {
            Some(since) if since.elapsed() < weights.min_residency => {
                self.breach(format!("{id} went after {:?} of {:?}", since.elapsed(), weights.min_residency));
            }
            None => self.breach(format!("{id} went while it was loading")),
            Some(_) => {}
        }
        node.residents.remove(id);
        self.tally.lock().unwrap().unloads += 1;
        Ok(UnloadResponse { status: "unloaded".into() })
    }
}

fn refusal(status: u16, body: &serde_json::Value) -> UpstreamError {
    UpstreamError::Status { status: StatusCode::from_u16(status).unwrap(), body: body.to_string() }
}

impl Hosts for SimHosts {
    fn health<'a>(&'a self, node: &'a Node) -> Answer<'a, Health> {
        Box::pin(self.answer(node, |node| {
            let device = |(index, total): (usize, &u64)| {
                let used = if node.lies { 0 } else { node.used(&self.weights, index) };
                DeviceHealth {
                    index: index as u32,
                    vram_used_mb: used,
                    vram_free_mb: total - used,
                    ..DeviceHealth::default()
                }
            };
            let load = |(id, resident): (&String, &Resident)| ModelLoad {
                id: id.clone(),
                in_flight: resident.in_flight,
                max_in_flight: node.capacity,
                idle_ms: Some(resident.idle_since.elapsed().as_millis() as u64),
                ..ModelLoad::default()
            };
            let devices = node.devices.iter().enumerate().map(device).collect();
            let models = node.residents.iter().filter(|(_, r)| r.since.is_some()).map(load).collect();
            Ok(Health { uptime_secs: 1, devices, models, ..Health::default() })
        }))
    }

    fn discovery<'a>(&'a self, node: &'a Node) -> Answer<'a, Discovery> {
        Box::pin(self.answer(node, |node| {
            let device = |(index, total): (usize, &u64)| Device {
                index: index as u32,
                name: "simulated".into(),
                vram_total_mb: *total,
                compute_capability: "9.0".into(),
            };
            Ok(Discovery {
                harnesses: vec!["candle".into()],
                devices: node.devices.iter().enumerate().map(device).collect(),
                features: node.features.clone(),
                ..Discovery::default()
            })
        }))
    }

    fn models<'a>(&'a self, node: &'a Node) -> Answer<'a, Vec<ModelInfo>> {
        Box::pin(self.answer(node, |node| {
            let info = |(id, resident): (&String, &Resident)| ModelInfo {
                id: id.clone(),
                harness: "candle".into(),
                status: if resident.since.is_some() { ModelStatus::Loaded } else { ModelStatus::Loading },
                devices: vec![resident.device as u32],
                vram_used_mb: Some(self.weights[id].mb),
                ..ModelInfo::default()
            };
            Ok(node.residents.iter().map(info).collect())
        }))
    }

    fn preflight<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        _: Duration,
    ) -> Answer<'a, Preflight> {
        Box::pin(self.answer(node, |_| {
            let (model_id, mb) = (request.model_id.clone(), self.weights[&request.model_id].mb);
            Ok(Preflight { model_id, weights_mb: mb, required_mb: mb, ..Preflight::default() })
        }))
    }

    fn load<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, LoadResponse> {
        Box::pin(async move {
            let loaded = || Ok(LoadResponse { status: "loaded".into() });
            if self.answer(node, |node| self.begin_load(node, request)).await? {
                return loaded();
            }
            let speed = self.nodes()[&node.name].speed.max(1);
            let takes = Duration::from_millis(self.weights[&request.model_id].mb * 1000 / speed);
            tokio::time::sleep(takes.min(limit)).await;
            self.answer(node, |node| {
                if node.spoiled.contains(&request.model_id) || takes > limit {
                    node.residents.remove(&request.model_id);
                    return Err(refusal(500, &json!({"error": "the disk broke"})));
                }
                match node.residents.get_mut(&request.model_id) {
                    Some(resident) => {
                        resident.since.get_or_insert_with(Instant::now);
                        resident.idle_since = Instant::now();
                        self.tally.lock().unwrap().loads += 1;
                        loaded()
                    }
                    // It died meanwhile and came back.
                    None => Err(refusal(500, &json!({"error": "what load?"}))),
                }
            })
            .await
        })
    }

    fn unload<'a>(
        &'a self,
        node: &'a Node,
        request: &'a UnloadRequest,
        _limit: Duration,
    ) -> Answer<'a, UnloadResponse> {
        Box::pin(self.answer(node, |node| self.take_off(node, request)))
    }

    fn shift<'a>(
        &'a self,
        node: &'a Node,
        _what: Shift,
        _request: &'a UnloadRequest,
        _limit: Duration,
    ) -> Answer<'a, serde_json::Value> {
        Box::pin(self.answer(node, |_| Err(refusal(404, &json!({})))))
    }

    fn defrag<'a>(&'a self, node: &'a Node) -> Answer<'a, Defragged> {
        Box::pin(self.answer(node, |node| {
            if !node.residents.is_empty() {
                self.breach("put in order while models are there".into());
            }
            node.defrags += 1;
            Ok(Defragged::default())
        }))
    }

    fn listen<'a>(
        &'a self,
        _node: &'a Node,
    ) -> Pin<Box<dyn Future<Output = Result<Listener, Deaf>> + Send + 'a>> {
        Box::pin(async { Err(Deaf::Unknown) })
    }
}

/// What a neuron of today can.
pub fn features() -> Vec<String> {
    [feature::CONDITIONAL_UNLOAD, feature::LOAD_PROGRESS, feature::DEFRAG].map(String::from).to_vec()
}
