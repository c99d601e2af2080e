//! The facts of every node for one model, kept from one decision to the next: a node that nothing has happened
//! to costs a look at two numbers.

use super::index::Names;
use super::place::ready;
use super::usage::ModelUse;
use super::{Conversation, Fleet, Loads, NodeView};
use crate::config::Model;
use crate::facts::{NodeFacts, state};
use std::sync::Arc;

/// What the last decision on a model has found; of a fleet that has changed since only what is new is looked at.
#[derive(Default)]
pub(super) struct Survey {
    model: Model,
    catalogued: bool,
    rows: Vec<Row>,
}

/// One node.
#[derive(Default)]
struct Row {
    /// Of the view that was looked at; 0 = none.
    stamp: u64,
    /// What the gateway itself knew of the node by then.
    version: u32,
    /// But for what each request has of its own.
    facts: NodeFacts,
    usage: Option<Arc<ModelUse>>,
    /// Where in the view's models it is.
    at: Option<usize>,
}

/// The facts of every node for a model, in the order of the topology.
pub fn facts(
    fleet: &Fleet,
    model: &Model,
    catalogued: bool,
    loads: &Loads,
    conversation: &Conversation<'_>,
) -> Vec<NodeFacts> {
    let job = loads.job(&model.id);
    let desk = loads.desk(&model.id);
    // A load under way moves from node to node unseen. And nobody waits here: what another request looks at
    // in this moment is looked at twice.
    if let Some(job) = job {
        let is_loading = |view: &NodeView| job.is_on(&view.node);
        return Survey::default().take(fleet, model, catalogued, conversation, is_loading);
    }
    match desk.survey.try_lock() {
        Ok(mut survey) => survey.take(fleet, model, catalogued, conversation, |_| false),
        Err(_) => Survey::default().take(fleet, model, catalogued, conversation, |_| false),
    }
}

impl Survey {
    fn take(
        &mut self,
        fleet: &Fleet,
        model: &Model,
        catalogued: bool,
        conversation: &Conversation<'_>,
        is_loading: impl Fn(&NodeView) -> bool,
    ) -> Vec<NodeFacts> {
        if self.catalogued != catalogued || self.model != *model {
            *self = Self { model: model.clone(), catalogued, rows: Vec::new() };
        }
        self.rows.resize_with(fleet.nodes.len(), Row::default);
        let names = Names::of(model);
        let of_node = |(view, row): (&Arc<NodeView>, &mut Row)| {
            let version = view.node.version();
            if (row.stamp, row.version) != (view.stamp, version) {
                *row = Row::of(view, version, model, catalogued, &names, is_loading(view));
            }
            row.now(view, conversation)
        };
        fleet.nodes.iter().zip(&mut self.rows).map(of_node).collect()
    }
}

impl Row {
    fn of(
        view: &NodeView,
        version: u32,
        model: &Model,
        catalogued: bool,
        names: &Names<'_>,
        loading: bool,
    ) -> Self {
        let small = |n: u64| n.min(u64::from(u32::MAX - 1)) as u32;
        let usage = view.node.known_usage(names.id, names.id_hash);
        let found = view.find(names);
        let (at, load) = (found.map(|(at, _)| at), found.and_then(|(_, load)| load));
        let info = at.map(|at| &view.models[at]);
        let facts = NodeFacts {
            state: Some(ready(view, model, catalogued, loading, info, usage.as_deref())),
            running: Some(load.map_or(0, |l| small(l.in_flight))),
            queued: load.map(|l| small(l.queue_depth)),
            capacity: match view.node.offer() {
                Some(offer) => offer.max_concurrent,
                None => load.map(|l| small(l.max_in_flight)).filter(|&n| n > 0),
            },
            vram_free_mb: view.health.devices.iter().map(|d| small(d.vram_free_mb)).max(),
            decode_tok_s: load.map(|l| l.tok_s_decode as u32).filter(|&n| n > 0),
            prefill_tok_s: load.map(|l| l.tok_s_prefill as u32).filter(|&n| n > 0),
            load_ms: usage.as_deref().and_then(ModelUse::load_ms),
            prefix_tokens: view.prefixes.as_ref().map(|_| 0),
        };
        Self { stamp: view.stamp, version, facts, usage, at }
    }

    /// With what changes from request to request.
    fn now(&self, view: &NodeView, conversation: &Conversation<'_>) -> NodeFacts {
        let mut facts = self.facts.clone();
        if let Some(usage) = &self.usage {
            facts.running = facts.running.max(Some(usage.in_flight()));
        }
        // It ends by the time alone, and nobody tells.
        if view.node.left_alone_for().is_some() {
            facts.state = Some(state::CANNOT);
        }
        if let Some(at) = self.at {
            facts.prefix_tokens = view.cached(&view.models[at].id, conversation);
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NodeConfig, Serves};
    use crate::fleet::{Draining, FleetState, Node, NodeState};
    use crate::policy::Topology;
    use crate::upstream::Access;
    use neuron_protocol::{DeviceHealth, ModelInfo, ModelStatus};

    fn node(name: &str) -> Arc<Node> {
        let access = Access { endpoint: "http://127.0.0.1:1".into(), ..Access::default() };
        let config = NodeConfig { name: name.into(), access, serves: Serves::Neuron };
        Arc::new(Node::new(&config).unwrap())
    }

    fn facts(survey: &mut Survey, fleet: &FleetState, model: &Model) -> Vec<NodeFacts> {
        let fleet = fleet.now();
        let kept = survey.take(&fleet, model, true, &Conversation::default(), |_| false);
        let new = Survey::default().take(&fleet, model, true, &Conversation::default(), |_| false);
        assert_eq!(kept, new, "what is kept is what there is");
        kept
    }

    #[test]
    fn whatever_happens_to_a_node_is_seen() {
        let (a, b) = (node("a"), node("b"));
        let state = FleetState::default();
        state.set_members(vec![a.clone(), b.clone()]);
        let mut model = Model::uncatalogued("m");
        let mut survey = Survey::default();
        let mut states = |state: &FleetState, model: &Model| -> Vec<u32> {
            facts(&mut survey, state, model).iter().map(|facts| facts.state.unwrap()).collect()
        };
        assert_eq!(states(&state, &model), [state::CANNOT; 2]);
        let up = |view: &mut NodeView| {
            view.state = NodeState::Up;
            view.discovery.harnesses = vec!["candle".into()];
            view.discovery.devices = vec![
                serde_json::from_value(serde_json::json!({"index": 0, "name": "d", "vram_total_mb": 1000}))
                    .unwrap(),
            ];
            view.health.devices =
                vec![DeviceHealth { index: 0, vram_free_mb: 900, ..DeviceHealth::default() }];
        };
        state.modify(&a, up);
        assert_eq!(states(&state, &model), [state::FITS, state::CANNOT]);
        state.modify(&b, up);
        assert_eq!(states(&state, &model), [state::FITS; 2]);
        a.drain(Draining::Operator, true);
        assert_eq!(states(&state, &model), [state::CANNOT, state::FITS]);
        a.drain(Draining::Operator, false);
        a.usage("m").measured(950);
        model.vram_mb = Some(960);
        assert_eq!(states(&state, &model), [state::FITS_AFTER_EVICTION; 2]);
        let loaded = ModelInfo { id: "m".into(), status: ModelStatus::Loaded, ..ModelInfo::default() };
        state.modify(&b, |view| view.models.push(loaded));
        assert_eq!(states(&state, &model), [state::FITS_AFTER_EVICTION, state::LOADED]);
        let desk = crate::fleet::Desk::new("m");
        let seat = b.usage("m").try_seat(None, &desk).unwrap();
        let running = facts(&mut Survey::default(), &state, &model)[1].running;
        assert_eq!(running, Some(1));
        drop(seat);
        let closed = b.usage("m").close(desk).unwrap();
        assert_eq!(states(&state, &model), [state::FITS_AFTER_EVICTION, state::LOADING]);
        drop(closed);
        assert_eq!(states(&state, &model), [state::FITS_AFTER_EVICTION, state::LOADED]);
        // Those that stay have another place.
        state.set_members(vec![b.clone()]);
        assert_eq!(states(&state, &model), [state::LOADED]);
        assert_eq!(state.now().topology.as_ref(), &Topology { epoch: 2, names: vec!["b".into()] });
    }
}
