//! Which guest has which figures: a place for each, kept while configurations come and go.
//!
//! The process that reads configurations writes it. A place that no configuration has any more
//! keeps its figures until another guest needs it, in case the guest comes back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What makes a guest the same in the next configuration.
pub type Identity = [u64; 4];

/// A place. Zeroes are a free one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entry {
    identity: [AtomicU64; 4],
    /// The last configuration that has it, counted from 1.
    generation: AtomicU64,
}

impl Entry {
    /// A place that is taken over from elsewhere.
    pub fn copy(&self, from: &Entry) {
        for (to, from) in self.identity.iter().zip(&from.identity) {
            to.store(from.load(Relaxed), Relaxed);
        }
        self.generation.store(from.generation.load(Relaxed), Relaxed);
    }

    fn is(&self, identity: &Identity) -> bool {
        self.generation() > 0
            && self.identity.iter().zip(identity).all(|(a, b)| a.load(Relaxed) == *b)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }
}

/// Where a guest of the configuration `generation` has its place, and whether somebody else's
/// figures are in it. `oldest` is the first configuration that a process still works under: nobody
/// writes to the places of those before. None when every place is in use.
pub fn place(
    entries: &[Entry],
    identity: &Identity,
    generation: u64,
    oldest: u64,
) -> Option<(usize, bool)> {
    let known = entries.iter().position(|entry| entry.is(identity));
    let free = || {
        let unused =
            |&at: &usize| matches!(entries[at].generation(), last if last == 0 || last < oldest);
        // The one that was left longest ago; one that never was anybody's before all others.
        (0..entries.len()).filter(unused).min_by_key(|&at| entries[at].generation())
    };
    let (at, new) = match known {
        Some(at) => (at, false),
        None => (free()?, true),
    };
    let entry = &entries[at];
    for (to, from) in entry.identity.iter().zip(identity) {
        to.store(*from, Relaxed);
    }
    entry.generation.store(generation, Relaxed);
    Some((at, new))
}

/// Whether the guest has a place.
pub fn knows(entries: &[Entry], identity: &Identity) -> bool {
    entries.iter().any(|entry| entry.is(identity))
}

/// How many places it takes for the guests of another configuration beside those that somebody may
/// still write to.
pub fn needed(entries: &[Entry], identities: &[Identity], oldest: u64) -> usize {
    let others = entries.iter().filter(|entry| {
        entry.generation() >= oldest.max(1) && !identities.iter().any(|identity| entry.is(identity))
    });
    others.count() + identities.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries<const N: usize>() -> [Entry; N] {
        std::array::from_fn(|_| Entry::default())
    }

    const A: Identity = [1, 0, 0, 0];
    const B: Identity = [2, 0, 0, 0];
    const C: Identity = [3, 0, 0, 0];

    #[test]
    fn a_guest_keeps_its_place_while_others_come_and_go() {
        let entries = entries::<3>();
        assert_eq!(place(&entries, &A, 1, 0), Some((0, true)));
        assert_eq!(place(&entries, &B, 1, 1), Some((1, true)));
        assert_eq!(place(&entries, &C, 2, 1), Some((2, true)));
        assert_eq!(place(&entries, &B, 2, 1), Some((1, false)));
        // It was away for one configuration.
        assert_eq!(place(&entries, &A, 3, 3), Some((0, false)));
    }

    #[test]
    fn a_place_is_given_away_once_nobody_writes_to_it() {
        let entries = entries::<2>();
        for identity in [A, B] {
            place(&entries, &identity, 1, 1);
        }
        place(&entries, &B, 2, 1);
        // Workers of the first configuration are still there.
        assert_eq!(place(&entries, &C, 2, 1), None);
        assert_eq!(needed(&entries, &[B, C], 1), 3);
        assert_eq!(needed(&entries, &[B, C], 2), 2);
        assert_eq!(place(&entries, &C, 2, 2), Some((0, true)));
        assert_eq!(place(&entries, &A, 2, 2), None);
    }
}
