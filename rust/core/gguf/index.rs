//! Names to positions without a second copy of the names: a hash table of positions into a list kept elsewhere.
//!
//! Hostile files are the reason. A file of nothing but tiny entries must not cost many times its size in memory, nor
//! quadratic time; the hashes are keyed at random, so that names cannot be made to collide.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The index of a list of unique names. Every method takes the function that finds a name by its position.
#[derive(Debug, Clone, Default)]
pub(super) struct NameIndex {
    table: HashTable<usize>,
    hasher: RandomState,
}

impl NameIndex {
    /// Position of `name`.
    pub(super) fn find<'a>(&self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        self.table.find(self.hasher.hash_one(name), |&at| name_at(at) == name).copied()
    }

    /// Adds `name` at `position`, or returns the position it has already.
    pub(super) fn insert<'a>(
        &mut self,
        name: &str,
        position: usize,
        name_at: impl Fn(usize) -> &'a str,
    ) -> Option<usize> {
        let Self { table, hasher } = self;
        let rehash = |&at: &usize| hasher.hash_one(name_at(at));
        match table.entry(hasher.hash_one(name), |&at| name_at(at) == name, rehash) {
            Entry::Occupied(found) => Some(*found.get()),
            Entry::Vacant(free) => {
                free.insert(position);
                None
            }
        }
    }

    /// Removes `name`, returns its position, and moves the positions after it down by one.
    pub(super) fn remove<'a>(&mut self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        let found = self.table.find_entry(self.hasher.hash_one(name), |&at| name_at(at) == name).ok()?;
        let (removed, _) = found.remove();
        for at in self.table.iter_mut().filter(|at| **at > removed) {
            *at -= 1;
        }
        Some(removed)
    }
}
