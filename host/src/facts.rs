//! Facts: what policies may know, as columns by name. docs/facts.md lists them; a test holds it to this.

use std::marker::PhantomData;

/// How ready a node is for a model.
pub mod state {
    /// Down, draining, or the model can never fit.
    pub const CANNOT: u32 = 0;
    pub const FITS_AFTER_EVICTION: u32 = 1;
    pub const FITS: u32 = 2;
    pub const LOADING: u32 = 3;
    pub const PARKED: u32 = 4;
    pub const LOADED: u32 = 5;
}

/// The value of a fact that is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// Reads one fact; [`UNKNOWN`] where it is not known.
pub type Column<F> = fn(&F) -> u32;

/// The facts that a policy asked for, in its order.
pub struct Columns<F> {
    /// Places in the declaration; the one behind the last is a fact that this gateway does not have.
    places: Vec<usize>,
    of: PhantomData<fn(&F)>,
}

impl<F> Columns<F> {
    /// Of a policy that reads none.
    pub const fn none() -> Self {
        Self { places: Vec::new(), of: PhantomData }
    }
}

/// Declares a set of facts once: the struct, and the table from names to columns.
macro_rules! facts {
    ($(#[$about:meta])* $set:ident, $table:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $set {
            $($(#[doc = $doc])+ pub $name: Option<u32>,)+
        }

        /// Name, meaning, column.
        pub const $table: &[(&str, &str, Column<$set>)] =
            &[$((stringify!($name), concat!($($doc),+), |facts| facts.$name.unwrap_or(UNKNOWN)),)+];

        impl $set {
            /// The columns of those names; one that this gateway does not have reads as [`UNKNOWN`].
            pub fn columns(names: &[String]) -> Columns<Self> {
                let place = |name: &String| $table.iter().position(|(known, ..)| known == name);
                let places = names.iter().map(|name| place(name).unwrap_or($table.len())).collect();
                Columns { places, of: PhantomData }
            }
        }

        impl Columns<$set> {
            /// Row-major: for each of `all` its facts; [`UNKNOWN`] where one is not known.
            pub fn rows(&self, all: &[$set]) -> Vec<u32> {
                let mut rows = Vec::with_capacity(all.len() * self.places.len());
                for facts in all {
                    let values = [$(facts.$name.unwrap_or(UNKNOWN),)+ UNKNOWN];
                    rows.extend(self.places.iter().map(|&place| values[place]));
                }
                rows
            }

            /// The same of one.
            pub fn row(&self, facts: &$set) -> Vec<u32> {
                self.rows(std::slice::from_ref(facts))
            }
        }
    };
}

facts! {
    /// Facts of a node, for one model.
    NodeFacts, NODE_FACTS {
        /// How ready the node is: 5 loaded, 4 parked, 3 loading, 2 fits, 1 fits after an eviction, 0 cannot.
        state,
        /// Requests for the model that run there, as the gateway counts its own and the node reports.
        running,
        /// Requests for the model that wait there.
        queued,
        /// Requests for the model that it runs at once.
        capacity,
        /// MiB of memory free on its emptiest device.
        vram_free_mb,
        /// Tokens a second of one recent answer.
        decode_tok_s,
        /// Tokens a second of recent prompts.
        prefill_tok_s,
        /// Milliseconds that loading the model took there the last time.
        load_ms,
        /// Tokens of this prompt that its cache holds.
        prefix_tokens,
    }
}

impl NodeFacts {
    /// Whether the node can serve the model at all, be it after a load.
    pub fn is_able(&self) -> bool {
        self.state.is_some_and(|s| s > state::CANNOT)
    }
}

facts! {
    /// Facts of a request.
    RequestFacts, REQUEST_FACTS {
        /// Tokens of the prompt, estimated at four bytes a token.
        prompt_tokens,
        /// The most tokens that the answer may have.
        max_tokens,
        /// 1 where the answer is streamed, else 0.
        stream,
    }
}

facts! {
    /// Facts of a model that may be unloaded.
    ResidentFacts, RESIDENT_FACTS {
        /// MiB over all devices.
        size_mb,
        /// Seconds since its last request ended.
        last_used_s,
        /// Requests that it served there.
        uses,
        /// Milliseconds that loading it took there the last time.
        load_ms,
        /// Its residency class.
        class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_values_read_as_absent() {
        let facts = NodeFacts { running: Some(3), ..NodeFacts::default() };
        let columns = NodeFacts::columns(&["queued", "running", "no_such_fact"].map(String::from));
        assert_eq!(columns.rows(&[facts.clone(), facts]), [UNKNOWN, 3, UNKNOWN, UNKNOWN, 3, UNKNOWN]);
    }

    #[test]
    fn the_documentation_lists_exactly_these() {
        let page = include_str!("../../docs/facts.md");
        let documented: Vec<&str> = page
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .filter_map(|l| l.split_once('`'))
            .map(|l| l.0)
            .collect();
        let mut real: Vec<&str> = NODE_FACTS.iter().map(|f| f.0).collect();
        real.extend(REQUEST_FACTS.iter().map(|f| f.0));
        real.extend(RESIDENT_FACTS.iter().map(|f| f.0));
        assert_eq!(documented, real);
        for (name, meaning, _) in NODE_FACTS {
            assert!(page.contains(meaning.trim()), "docs/facts.md says something else of `{name}`");
        }
    }
}
