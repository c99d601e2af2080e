//! Names found by their hash, computed once for a decision that looks at every node.

use crate::config::Model;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// By a name's hash. Two names of one hash are both in it, one after the other: whoever looks compares.
pub(super) type ByName<T> = HashMap<u64, Vec<T>, BuildHasherDefault<AsItIs>>;

/// A key that is a hash already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called: the keys are numbers.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

pub(super) fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A model by the names that nodes may have for it.
pub(super) struct Names<'a> {
    pub(super) id: &'a str,
    pub(super) id_hash: u64,
    /// Where it differs.
    node_id: Option<(String, u64)>,
}

impl<'a> Names<'a> {
    pub(super) fn of(model: &'a Model) -> Self {
        let node_id = Some(model.node_id()).filter(|id| *id != model.id).map(|id| {
            let hash = hash_of(&id);
            (id, hash)
        });
        Self { id: &model.id, id_hash: hash_of(&model.id), node_id }
    }

    /// Each name with its hash, the node's own first.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, u64)> {
        let node_id = self.node_id.iter().map(|(id, hash)| (id.as_str(), *hash));
        node_id.chain([(self.id, self.id_hash)])
    }
}
