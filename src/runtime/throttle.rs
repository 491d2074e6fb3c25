//! How often what repeats itself is said: the first time at once, then at most once per second,
//! with how much was left unsaid. Knows no log and no clock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::Duration;

/// Between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// Kinds that are told apart; all further ones count as one. A guest fails in a dozen ways; this
/// bounds what one that is out for it can make.
const KINDS: usize = 64;

/// What was said of each kind. Times are on any clock that does not go back.
#[derive(Debug)]
pub struct Throttle<K> {
    /// `None` is all those there was no room for.
    kinds: HashMap<Option<K>, Said>,
}

#[derive(Debug)]
struct Said {
    at: Duration,
    suppressed: u64,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Throttle { kinds: HashMap::new() }
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Whether something of this kind is to be said now, and of how many before it nothing was.
    pub fn say(&mut self, kind: K, now: Duration) -> Option<u64> {
        let mut kind = Some(kind);
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            kind = None;
        }
        match self.kinds.entry(kind) {
            Entry::Vacant(entry) => {
                entry.insert(Said { at: now, suppressed: 0 });
                Some(0)
            }
            Entry::Occupied(mut entry) => {
                let said = entry.get_mut();
                if now < said.at + INTERVAL {
                    said.suppressed += 1;
                    return None;
                }
                said.at = now;
                Some(std::mem::take(&mut said.suppressed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_of_a_kind_is_said_and_then_one_per_second() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.say("trap", ms(5)), Some(0));
        assert_eq!(throttle.say("trap", ms(6)), None);
        assert_eq!(throttle.say("exit", ms(6)), Some(0));
        assert_eq!(throttle.say("trap", ms(1004)), None);
        assert_eq!(throttle.say("trap", ms(1005)), Some(2));
        assert_eq!(throttle.say("exit", ms(2000)), Some(0));
    }

    proptest! {
        #[test]
        fn what_is_said_is_bounded_and_the_count_exact(
            steps in prop::collection::vec((0u64..300, 0u32..100), 0..400),
        ) {
            let mut throttle = Throttle::default();
            let (mut now, mut said, mut counted) = (0, 0u64, 0);
            for &(gap, kind) in &steps {
                now += gap;
                if let Some(suppressed) = throttle.say(kind, ms(now)) {
                    said += 1;
                    counted += suppressed;
                }
            }
            let pending: u64 = throttle.kinds.values().map(|said| said.suppressed).sum();
            prop_assert_eq!(said + counted + pending, steps.len() as u64);
            prop_assert!(throttle.kinds.len() <= KINDS + 1);
            prop_assert!(said <= throttle.kinds.len() as u64 * (1 + now / 1000));
        }
    }
}
