//! A vocabulary both ways: id to spelling and back.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::packed::Texts;

/// Spellings by id, and ids by spelling.
#[derive(Debug, Default)]
pub(super) struct Vocab {
    texts: Texts,
    ids: HashTable<u32>,
    hasher: RandomState,
    /// The second id that one spelling has.
    twice: Option<u32>,
}

impl Vocab {
    /// Ids are the spellings' numbers. Of equal ones the first is found.
    pub(super) fn new(mut texts: Texts) -> Self {
        texts.shrink();
        let (hasher, mut twice) = (RandomState::default(), None);
        let mut ids = HashTable::with_capacity(texts.len());
        let hash = |texts: &Texts, id: u32| hasher.hash_one(texts.get(id as usize).unwrap_or_default());
        for (id, text) in (0u32..).zip(texts.iter()) {
            let is_it = |known: &u32| texts.get(*known as usize) == Some(text);
            match ids.entry(hasher.hash_one(text), is_it, |known| hash(&texts, *known)) {
                hashbrown::hash_table::Entry::Occupied(_) => twice = twice.or(Some(id)),
                hashbrown::hash_table::Entry::Vacant(place) => drop(place.insert(id)),
            }
        }
        Self { texts, ids, hasher, twice }
    }

    /// A spelling that several ids have.
    pub(super) fn twice(&self) -> Option<&str> {
        self.texts.get(self.twice? as usize)
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let is_it = |id: &u32| self.texts.get(*id as usize) == Some(text);
        self.ids.find(self.hasher.hash_one(text), is_it).copied()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize)
    }

    /// By id.
    pub(super) fn texts(&self) -> &Texts {
        &self.texts
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.texts.held_bytes() + self.ids.allocation_size()
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}
