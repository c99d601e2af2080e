//! Which beginnings of conversations lie in which node's cache, as the nodes say; docs/prefixes.md.

use super::assumed::{self, Assumed};
use neuron_protocol::PrefixChanges;
use neuron_protocol::prefix::{self, PrefixChain};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Beginnings that are kept of one model on one node; what a node says beyond is passed over.
const MOST: usize = 1 << 16;

/// What one node has said. Cheap to copy: a change copies one model's table.
#[derive(Debug, Clone, Default)]
pub(super) struct Prefixes {
    /// Tokens by hash, by the node's id of the model.
    models: HashMap<String, Arc<HashMap<u64, u32>>>,
}

impl Prefixes {
    pub(super) fn apply(&mut self, changes: &PrefixChanges) {
        let table = Arc::make_mut(self.models.entry(changes.model.clone()).or_default());
        for hash in &changes.removed {
            table.remove(&hash.0);
        }
        for prefix in &changes.added {
            if table.len() < MOST || table.contains_key(&prefix.hash.0) {
                table.insert(prefix.hash.0, prefix.tokens.min(u64::from(u32::MAX - 1)) as u32);
            }
        }
        if table.is_empty() {
            self.models.remove(&changes.model);
        }
    }

    /// Tokens of the longest beginning that is held or assumed to be, of a conversation with these entries.
    fn longest(&self, assumed: &Assumed, model: &str, entries: impl FnOnce() -> Arc<[u64]>) -> u32 {
        let table = self.models.get(model);
        if table.is_none() && assumed.is_empty() {
            return 0;
        }
        let known = |hash: &u64| {
            let confirmed = table.and_then(|table| table.get(hash).copied());
            confirmed.or_else(|| assumed::tokens(assumed, *hash))
        };
        entries().iter().rev().find_map(known).unwrap_or(0)
    }

    /// The node was unloaded of the model.
    pub(super) fn forget(&mut self, model: &str) {
        self.models.remove(model);
    }
}

/// A request's conversation, in the client's spelling. Its hashes are computed where a node has something to
/// compare them with, and once for each name that nodes have for the model.
#[derive(Debug, Default)]
pub struct Conversation<'a> {
    tenant: Cow<'a, str>,
    tools: Option<&'a str>,
    template_arguments: Option<&'a str>,
    messages: Vec<&'a str>,
    entries: RefCell<Vec<(String, Arc<[u64]>)>>,
}

impl<'a> Conversation<'a> {
    pub fn new(
        tenant: &'a str,
        tools: Option<&'a str>,
        template_arguments: Option<&'a str>,
        messages: Vec<&'a str>,
    ) -> Self {
        Self {
            tenant: prefix::tenant(tenant.as_bytes()),
            tools,
            template_arguments,
            messages,
            entries: RefCell::default(),
        }
    }

    /// Tokens of this conversation's beginning in the node's cache. `model`: the node's id.
    pub(super) fn cached(&self, prefixes: &Prefixes, assumed: &Assumed, model: &str) -> u32 {
        prefixes.longest(assumed, model, || self.entries(model))
    }

    /// Bytes of each message.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.messages.iter().map(|message| message.len())
    }

    /// The value after each message.
    pub(crate) fn entries(&self, model: &str) -> Arc<[u64]> {
        let mut known = self.entries.borrow_mut();
        if let Some((_, entries)) = known.iter().find(|(name, _)| name == model) {
            return entries.clone();
        }
        let mut chain = PrefixChain::of_request(&self.tenant, model, "", self.tools, self.template_arguments);
        let next = |message: &&str| {
            chain = chain.then_json(message);
            chain.value()
        };
        let entries: Arc<[u64]> = self.messages.iter().map(next).collect();
        known.push((model.to_owned(), entries.clone()));
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neuron_protocol::{Prefix, prefix::PrefixHash};

    const MESSAGES: [&str; 3] = [r#"{"a":1}"#, r#"{ "b" : 2 }"#, r#"{"c":3}"#];

    fn entry(tenant: &str, model: &str, messages: usize) -> u64 {
        let start = PrefixChain::of_request(tenant, model, "", None, None);
        MESSAGES[..messages].iter().fold(start, |chain, m| chain.then_json(m)).value()
    }

    fn changes(model: &str, added: &[(u64, u64)], removed: &[u64]) -> PrefixChanges {
        let added = added.iter().map(|&(hash, tokens)| Prefix { hash: PrefixHash(hash), tokens }).collect();
        PrefixChanges {
            model: model.into(),
            added,
            removed: removed.iter().map(|&h| PrefixHash(h)).collect(),
        }
    }

    #[test]
    fn the_longest_that_is_held_counts() {
        let conversation = Conversation::new("t", None, None, MESSAGES.to_vec());
        let mut prefixes = Prefixes::default();
        assert_eq!(conversation.cached(&prefixes, &Assumed::default(), "m"), 0);
        prefixes.apply(&changes("m", &[(entry("t", "m", 1), 16), (entry("t", "m", 2), 64)], &[]));
        assert_eq!(conversation.cached(&prefixes, &Assumed::default(), "m"), 64);
        // Under another name, for another tenant, with tools: another conversation.
        assert_eq!(conversation.cached(&prefixes, &Assumed::default(), "n"), 0);
        assert_eq!(
            Conversation::new("u", None, None, MESSAGES.to_vec()).cached(&prefixes, &Assumed::default(), "m"),
            0
        );
        let tools = Conversation::new("t", Some("[]"), None, MESSAGES.to_vec());
        assert_eq!(tools.cached(&prefixes, &Assumed::default(), "m"), 0);
        prefixes.apply(&changes("m", &[], &[entry("t", "m", 2)]));
        assert_eq!(conversation.cached(&prefixes, &Assumed::default(), "m"), 16);
        prefixes.forget("m");
        assert_eq!(conversation.cached(&prefixes, &Assumed::default(), "m"), 0);
    }

    #[test]
    fn a_node_that_says_too_much_is_cut_short() {
        let mut prefixes = Prefixes::default();
        let many: Vec<(u64, u64)> = (0..MOST as u64 + 5).map(|hash| (hash, u64::MAX)).collect();
        prefixes.apply(&changes("m", &many, &[]));
        assert_eq!(prefixes.models["m"].len(), MOST);
        assert_eq!(prefixes.models["m"][&0], u32::MAX - 1);
    }
}
