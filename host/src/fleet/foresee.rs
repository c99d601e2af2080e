//! What loading a model would take on a node, and who would have to leave for it. Nothing is done about it.

use super::load::refused;
use super::place::{barred, find, per_device_mb};
use super::plan::{Need, cheapest};
use super::standing::Standing;
use super::{Loads, Node, Why, poll};
use crate::config::Model;
use crate::upstream::UpstreamError;
use neuron_protocol::{LoadRequest, ModelStatus, Preflight, feature};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What a node gets to look at a model, the beginnings of which it may have to fetch.
const LIMIT: Duration = Duration::from_secs(60);

/// A load on one node, foreseen.
#[derive(Debug, Clone, Serialize)]
pub struct Foreseen {
    pub node: String,
    pub outcome: Outcome,
    /// What the node says that the model takes; not every node can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// MiB that it takes, and that are free for it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_mb: Option<u64>,
    /// Where it would go.
    pub devices: Vec<u32>,
    /// Who would be unloaded for it, in order.
    pub victims: Vec<String>,
    /// Why not, or what speaks against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node's kind of refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is there.
    Resident,
    /// It is on its way there, and has its room.
    Loading,
    /// There is room.
    Fits,
    /// There is room once its victims have gone.
    AfterUnloading,
    /// Not on this node, or not now.
    Impossible,
    /// Neither the node nor the catalogue says what it takes.
    Unknown,
}

impl Outcome {
    /// A load would be tried there.
    pub fn is_load(self) -> bool {
        matches!(self, Self::Fits | Self::AfterUnloading | Self::Unknown)
    }
}

impl Loads {
    /// Looks at the node, asks it what the model takes, and makes the plan that a load would make now.
    pub async fn foresee(&self, node: &Arc<Node>, model: &Model) -> Foreseen {
        poll::refresh(self, node).await;
        let fleet = self.fleet.now();
        let Some(view) = fleet.view(node) else {
            return Foreseen::impossible(node, format!("node {} has left the fleet", node.name), None);
        };
        if let Some(found) = find(view, model) {
            use ModelStatus::{Loading, Recovering, Reloading};
            if found.info.can_serve() {
                return Foreseen::new(node, Outcome::Resident);
            }
            if matches!(found.info.status, Loading | Reloading | Recovering) {
                return Foreseen::new(node, Outcome::Loading);
            }
        }
        if let Some(why) = barred(view, model) {
            return Foreseen::impossible(node, why, None);
        }
        let mut figures = None;
        let (preflight, need) = match self.ask_for(node, view.discovery.has(feature::PREFLIGHT), model).await
        {
            Ok(looked) => looked,
            Err(error) => {
                let failure = refused::failure(node, model, &error);
                match refused::need(&error) {
                    Some(need) => {
                        figures = Some((need.mb, need.mb.saturating_sub(need.at_least)));
                        (None, need)
                    }
                    None => return Foreseen::impossible(node, failure.message, Some(failure.code)),
                }
            }
        };
        if need.mb == 0 {
            return Foreseen { preflight, ..Foreseen::new(node, Outcome::Unknown) };
        }
        let figures = preflight.as_ref().map(|looked| (looked.required_mb, looked.free_mb)).or(figures);
        let (required_mb, free_mb) = figures.unzip();
        let config = self.config.load_full();
        let may_go = |standing: &Standing| standing.is_free_for(Why::Operator) || standing.may_be_drained();
        match cheapest(self, &config, view, model, need, &may_go) {
            Ok(plan) => {
                let outcome = if plan.victims.is_empty() { Outcome::Fits } else { Outcome::AfterUnloading };
                let (devices, victims) = (plan.devices, plan.victims);
                let foreseen = Foreseen::new(node, outcome);
                Foreseen { preflight, required_mb, free_mb, devices, victims, ..foreseen }
            }
            Err(short) => {
                let impossible = Foreseen::impossible(node, short.message, Some(short.code));
                Foreseen { preflight, required_mb, free_mb, ..impossible }
            }
        }
    }

    async fn ask_for(
        &self,
        node: &Arc<Node>,
        can: bool,
        model: &Model,
    ) -> Result<(Option<Preflight>, Need), UpstreamError> {
        if !can {
            return Ok((None, Need::of(per_device_mb(node, model))));
        }
        let request = LoadRequest {
            model_id: model.node_id(),
            harness: model.harness.clone(),
            quant: model.quant.clone(),
            tensor_parallel: Some(model.min_devices).filter(|&n| n > 1),
            ..LoadRequest::default()
        };
        let looked = self.hosts.preflight(node, &request, LIMIT).await?;
        // Of each of its devices.
        let need = Need::of(looked.required_mb);
        Ok((Some(looked), need))
    }
}

impl Foreseen {
    fn new(node: &Node, outcome: Outcome) -> Self {
        Self {
            node: node.name.clone(),
            outcome,
            preflight: None,
            required_mb: None,
            free_mb: None,
            devices: Vec::new(),
            victims: Vec::new(),
            message: None,
            code: None,
        }
    }

    fn impossible(node: &Node, message: String, code: Option<String>) -> Self {
        Self { message: Some(message), code, ..Self::new(node, Outcome::Impossible) }
    }
}
