//! A circuit breaker: whether a guest that fails again and again is called at all. Knows no guest
//! and no clock; whoever asks says what time it is.

use std::time::Duration;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Failures in a row that open it.
    pub max_fails: u32,
    /// How long it stays open at first; twice as long after each probe that fails.
    pub backoff: Duration,
    /// The longest it stays open.
    pub max_backoff: Duration,
}

impl Default for Settings {
    /// Ten in a row are no coincidence where a guest works at all. A tenth of a second is a hundred
    /// times what starting a small guest takes; after half a minute somebody may have repaired what
    /// the guest depends on.
    fn default() -> Self {
        Settings {
            max_fails: 10,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
        }
    }
}

/// Leave to call the guest; its outcome is reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// One of many.
    Normal,
    /// The one that finds out whether the guest works again.
    Probe(u64),
}

/// What an outcome has changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The guest is not called for this long.
    Opened {
        /// How often it failed in a row.
        fails: u32,
        /// When it will be tried again.
        backoff: Duration,
    },
    /// It is called as usual.
    Closed {
        /// How often it had failed in a row.
        fails: u32,
    },
}

/// The breaker of one guest. Times are on any clock that does not go back.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Failures in a row.
    fails: u32,
    /// How many probes there were.
    probes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everybody passes.
    Closed,
    /// Nobody passes before `until`, and one probe then.
    Open { until: Duration, backoff: Duration },
    /// The last probe is under way. One that has no outcome by `until` (its exchange waits for a
    /// slow upstream, say) does not keep the next one out.
    HalfOpen { until: Duration, backoff: Duration },
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: Settings) -> Self {
        Breaker { settings, state: State::Closed, fails: 0, probes: 0 }
    }

    /// How long nobody passes, if nobody does.
    pub fn refuses(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Open { until, .. } | State::HalfOpen { until, .. } if now < until => {
                Some(until - now)
            }
            _ => None,
        }
    }

    /// Leave to call the guest, or how long there is none.
    pub fn admit(&mut self, now: Duration) -> Result<Pass, Duration> {
        if let Some(left) = self.refuses(now) {
            return Err(left);
        }
        match self.state {
            State::Closed => Ok(Pass::Normal),
            State::Open { backoff, .. } | State::HalfOpen { backoff, .. } => {
                self.state = State::HalfOpen { until: now + backoff, backoff };
                self.probes += 1;
                Ok(Pass::Probe(self.probes))
            }
        }
    }

    /// The guest did what it was called for.
    pub fn succeeded(&mut self, pass: Pass) -> Option<Change> {
        match (self.state, pass) {
            (State::Closed, _) => {
                self.fails = 0;
                None
            }
            // Admitted before it opened: says nothing about now.
            (_, Pass::Normal) => None,
            (_, Pass::Probe(_)) => {
                self.state = State::Closed;
                let fails = std::mem::take(&mut self.fails);
                Some(Change::Closed { fails })
            }
        }
    }

    /// The guest failed.
    pub fn failed(&mut self, pass: Pass, now: Duration) -> Option<Change> {
        let backoff = match (self.state, pass) {
            (State::Closed, _) => {
                self.fails = self.fails.saturating_add(1);
                if self.fails < self.settings.max_fails {
                    return None;
                }
                self.settings.backoff.min(self.settings.max_backoff)
            }
            (State::HalfOpen { backoff, .. }, Pass::Probe(probe)) if probe == self.probes => {
                self.fails = self.fails.saturating_add(1);
                (backoff * 2).min(self.settings.max_backoff)
            }
            // Admitted before it opened, or a probe that took too long: known already.
            _ => return None,
        };
        self.state = State::Open { until: now + backoff, backoff };
        Some(Change::Opened { fails: self.fails, backoff })
    }

    /// There is no outcome, as when the client went away: the next one is the probe.
    pub fn abandoned(&mut self, pass: Pass, now: Duration) {
        if let State::HalfOpen { backoff, .. } = self.state
            && pass == Pass::Probe(self.probes)
        {
            self.state = State::Open { until: now, backoff };
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

    fn breaker(max_fails: u32) -> Breaker {
        Breaker::new(Settings { max_fails, backoff: ms(100), max_backoff: ms(300) })
    }

    fn opened(fails: u32, backoff: u64) -> Option<Change> {
        Some(Change::Opened { fails, backoff: ms(backoff) })
    }

    #[test]
    fn a_success_in_between_keeps_it_closed() {
        let mut breaker = breaker(2);
        for at in 0..10 {
            let pass = breaker.admit(ms(at)).expect("admitted");
            assert_eq!(breaker.failed(pass, ms(at)), None);
            assert_eq!(breaker.succeeded(pass), None);
        }
        assert_eq!(breaker.failed(Pass::Normal, ms(10)), None);
        assert_eq!(breaker.failed(Pass::Normal, ms(10)), opened(2, 100));
    }

    #[test]
    fn one_probe_after_the_backoff_and_its_success_closes() {
        let mut breaker = breaker(1);
        assert_eq!(breaker.failed(Pass::Normal, ms(0)), opened(1, 100));
        assert_eq!(breaker.admit(ms(99)), Err(ms(1)));
        let probe = breaker.admit(ms(100)).expect("admitted");
        assert_eq!(probe, Pass::Probe(1));
        assert_eq!(breaker.admit(ms(100)), Err(ms(100)), "one at a time");
        assert_eq!(breaker.succeeded(probe), Some(Change::Closed { fails: 1 }));
        assert_eq!(breaker.admit(ms(101)), Ok(Pass::Normal));
    }

    #[test]
    fn each_failed_probe_doubles_the_backoff_up_to_the_maximum() {
        let mut breaker = breaker(1);
        assert_eq!(breaker.failed(Pass::Normal, ms(0)), opened(1, 100));
        let mut now = 0;
        for (fails, was, is) in [(2, 100, 200), (3, 200, 300), (4, 300, 300)] {
            now += was;
            let probe = breaker.admit(ms(now)).expect("admitted");
            assert_eq!(breaker.failed(probe, ms(now)), opened(fails, is));
        }
        let probe = breaker.admit(ms(now + 300)).expect("admitted");
        assert!(breaker.succeeded(probe).is_some());
        assert_eq!(breaker.failed(Pass::Normal, ms(now)), opened(1, 100), "begins anew");
    }

    #[test]
    fn outcomes_of_calls_from_before_it_opened_change_nothing() {
        let mut breaker = breaker(1);
        let old = breaker.admit(ms(0)).expect("admitted");
        breaker.failed(Pass::Normal, ms(0));
        assert_eq!(breaker.succeeded(old), None);
        let probe = breaker.admit(ms(100)).expect("admitted");
        assert_eq!(breaker.failed(old, ms(110)), None);
        assert_eq!(breaker.succeeded(old), None);
        assert_eq!(breaker.refuses(ms(110)), Some(ms(90)));
        assert!(breaker.succeeded(probe).is_some());
    }

    #[test]
    fn a_probe_without_outcome_makes_room_for_the_next() {
        let mut breaker = breaker(1);
        breaker.failed(Pass::Normal, ms(0));
        let gone = breaker.admit(ms(100)).expect("admitted");
        breaker.abandoned(gone, ms(110));
        let slow = breaker.admit(ms(110)).expect("admitted");
        assert_eq!(breaker.admit(ms(209)), Err(ms(1)));
        let next = breaker.admit(ms(210)).expect("admitted");
        assert_eq!(breaker.failed(slow, ms(220)), None, "the next one decides");
        breaker.abandoned(slow, ms(220));
        assert_eq!(breaker.refuses(ms(220)), Some(ms(90)));
        assert_eq!(breaker.failed(next, ms(220)), opened(2, 200));
        assert_eq!(breaker.succeeded(slow), Some(Change::Closed { fails: 2 }), "good news is");
    }

    proptest! {
        // A guest that always fails: however requests come, no more of them reach it than failures
        // are allowed and back-offs have passed.
        #[test]
        fn calls_of_a_broken_guest_are_bounded(
            max_fails in 1u32..6,
            gaps in prop::collection::vec(0u64..150, 1..200),
        ) {
            let mut breaker = breaker(max_fails);
            let (mut now, mut calls) = (0, 0);
            for gap in gaps {
                now += gap;
                if let Ok(pass) = breaker.admit(ms(now)) {
                    calls += 1;
                    breaker.failed(pass, ms(now));
                }
            }
            prop_assert!(calls <= u64::from(max_fails) + now / 100);
        }

        // Whatever happened before, a guest that works is called as usual within the longest
        // back-off.
        #[test]
        fn there_is_always_a_way_back(
            max_fails in 1u32..6,
            steps in prop::collection::vec((0u64..150, 0..4), 0..100),
        ) {
            let mut breaker = breaker(max_fails);
            let (mut now, mut out) = (0, Vec::new());
            for (gap, step) in steps {
                now += gap;
                match (step, out.pop()) {
                    (1, Some(pass)) => drop(breaker.succeeded(pass)),
                    (2, Some(pass)) => drop(breaker.failed(pass, ms(now))),
                    (3, Some(pass)) => breaker.abandoned(pass, ms(now)),
                    (_, pass) => {
                        out.extend(pass);
                        out.extend(breaker.admit(ms(now)));
                    }
                }
            }
            let pass = breaker.admit(ms(now + 300)).expect("admitted");
            breaker.succeeded(pass);
            prop_assert_eq!(breaker.admit(ms(now + 300)), Ok(Pass::Normal));
        }
    }
}
