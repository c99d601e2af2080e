//! A routing policy with the standard library and nothing else: of the nodes that are readiest for the
//! model, the one with the fewest requests.

use cortex::policy::types::PolicyError;
use exports::cortex::policy::lifecycle::{Guest as Lifecycle, Metadata};
use exports::cortex::policy::router::{Decision, Guest as Router, Node, Request, Wanted};

wit_bindgen::generate!({ world: "routing-policy", path: "../../wit" });

export!(Policy);

struct Policy;

impl Lifecycle for Policy {
    fn describe() -> Metadata {
        let [name, version] = ["rust-routing", env!("CARGO_PKG_VERSION")].map(String::from);
        Metadata { name, version, config_schema: String::new() }
    }

    fn configure(json: String) -> Result<(), PolicyError> {
        match json.trim() {
            "{}" => Ok(()),
            _ => Err(PolicyError::InvalidRequest("rust-routing takes no settings".into())),
        }
    }

    fn self_test() -> Result<(), PolicyError> {
        match choose(&[5, 9, 0, 0, 0, 0, 5, 1, u32::MAX])[..] {
            [2, 0] => Ok(()),
            _ => Err(PolicyError::Internal("of two nodes, the busier came first".into())),
        }
    }
}

impl Router for Policy {
    /// Names from docs/facts.md, in the order of a row.
    fn facts() -> Wanted {
        let node = ["state", "running", "queued"].map(String::from).to_vec();
        Wanted { node, request: Vec::new() }
    }

    fn on_topology(_epoch: u64, _nodes: Vec<Node>) {}

    fn route(_epoch: u64, request: Request, nodes: Vec<u32>) -> Result<Decision, PolicyError> {
        let picks = choose(&nodes);
        if picks.is_empty() {
            let message = ["no node can serve ", &request.model, " now"].concat();
            return Ok(Decision::Reject((503, message)));
        }
        Ok(Decision::Pick(picks))
    }
}

/// Rows of three facts; indices of the nodes that can serve, best first.
fn choose(rows: &[u32]) -> Vec<u16> {
    let known = |fact: u32| if fact == u32::MAX { 0 } else { fact };
    let (rows, _) = rows.as_chunks::<3>();
    let mut picks: Vec<u16> =
        (0..rows.len() as u16).filter(|&i| known(rows[usize::from(i)][0]) > 0).collect();
    picks.sort_by_key(|&i| {
        let [state, running, queued] = rows[usize::from(i)];
        (u32::MAX - state, u64::from(known(running)) + u64::from(known(queued)))
    });
    picks
}
