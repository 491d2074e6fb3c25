//! A bounded set of things that are costly to make: who is idle, how many exist, how many may.
//! Knows nothing of guests and requests, makes nothing itself, and nobody waits in here.

/// At most `max` live things, of which the idle ones wait here.
#[derive(Debug)]
pub struct Pool<T> {
    /// The last one in is the first one out: its memory is warm, and the others get old enough to
    /// be trimmed.
    idle: Vec<T>,
    live: usize,
    max: usize,
}

/// What [`Pool::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Take<T> {
    /// This one was idle.
    Idle(T),
    /// None is idle, and there is room: the caller makes one, which already counts as live, or
    /// says [`Pool::forget`] if it cannot.
    Create,
    /// As many as may exist are in use.
    Full,
}

impl<T> Pool<T> {
    /// An empty pool. With a `max` of 0 every take finds it full.
    pub fn new(max: usize) -> Self {
        Pool { idle: Vec::new(), live: 0, max }
    }

    /// Takes one out, or the right to make one.
    pub fn take(&mut self) -> Take<T> {
        if let Some(item) = self.idle.pop() {
            return Take::Idle(item);
        }
        match self.reserve() {
            true => Take::Create,
            false => Take::Full,
        }
    }

    /// The right to make one more, as [`Take::Create`], whether or not one is idle.
    pub fn reserve(&mut self) -> bool {
        let room = self.live < self.max;
        self.live += usize::from(room);
        room
    }

    /// Brings back what was taken or made.
    pub fn give_back(&mut self, item: T) {
        debug_assert!(self.idle.len() < self.live, "came back without being taken");
        self.idle.push(item);
    }

    /// One that was taken or made is gone and will not come back.
    pub fn forget(&mut self) {
        debug_assert!(self.idle.len() < self.live, "forgotten without being taken");
        self.live = self.live.saturating_sub(1);
    }

    /// Removes the longest idle ones until at most `keep` are idle, and hands them to the caller,
    /// who knows when it is a good time to drop them.
    pub fn trim(&mut self, keep: usize) -> impl ExactSizeIterator<Item = T> + '_ {
        let surplus = self.idle.len().saturating_sub(keep);
        self.live = self.live.saturating_sub(surplus);
        self.idle.drain(..surplus)
    }

    /// Removes the longest idle ones for as long as `expired` says so of them and more than `min` are
    /// live, and hands them over.
    pub fn expire(
        &mut self,
        min: usize,
        expired: impl Fn(&T) -> bool,
    ) -> impl ExactSizeIterator<Item = T> + '_ {
        let most = self.live.saturating_sub(min);
        let count = self.idle.iter().take(most).take_while(|item| expired(item)).count();
        self.live = self.live.saturating_sub(count);
        self.idle.drain(..count)
    }

    /// The one that has been idle for longest.
    pub fn oldest(&self) -> Option<&T> {
        self.idle.first()
    }

    /// How many exist, idle or not.
    pub fn live(&self) -> usize {
        self.live
    }

    /// How many wait here.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many may exist.
    pub fn max(&self) -> usize {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_one_in_is_the_first_one_out() {
        let mut pool = Pool::new(3);
        for item in 1..=3 {
            assert_eq!(pool.take(), Take::Create);
            pool.give_back(item);
            assert_eq!(pool.take(), Take::Idle(item));
        }
        (1..=3).for_each(|item| pool.give_back(item));
        assert_eq!(pool.take(), Take::Idle(3));
        assert_eq!(pool.take(), Take::Idle(2));
    }

    #[test]
    fn a_full_pool_has_room_again_after_a_loss() {
        let mut pool: Pool<u8> = Pool::new(1);
        assert_eq!(pool.take(), Take::Create);
        assert_eq!(pool.take(), Take::Full);
        pool.forget();
        assert_eq!(pool.take(), Take::Create);
        assert_eq!(Pool::<u8>::new(0).take(), Take::Full);
    }

    #[test]
    fn trimming_drops_the_longest_idle_ones() {
        let mut pool = Pool::new(4);
        (0..4).for_each(|_| assert_eq!(pool.take(), Take::Create));
        (1..=3).for_each(|item| pool.give_back(item));
        assert_eq!(pool.trim(1).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((pool.idle(), pool.live()), (1, 2));
        assert_eq!(pool.trim(5).len(), 0);
    }

    #[test]
    fn the_longest_idle_ones_expire() {
        let mut pool = Pool::new(4);
        (0..4).for_each(|_| assert_eq!(pool.take(), Take::Create));
        assert_eq!(pool.oldest(), None);
        [10, 20, 30].into_iter().for_each(|since| pool.give_back(since));
        assert_eq!(pool.oldest(), Some(&10));
        assert_eq!(pool.expire(0, |&since| since <= 20).collect::<Vec<_>>(), [10, 20]);
        assert_eq!((pool.idle(), pool.live()), (1, 2));
        assert_eq!(pool.expire(0, |&since| since <= 20).len(), 0);
        // One is in use, and one has to stay.
        assert_eq!(pool.expire(2, |_| true).len(), 0);
        assert_eq!(pool.expire(1, |_| true).len(), 1);
    }

    #[test]
    fn another_one_is_made_beside_those_that_are_idle() {
        let mut pool = Pool::new(2);
        assert!(pool.reserve());
        pool.give_back(1);
        assert!(pool.reserve());
        assert!(!pool.reserve(), "no more than the maximum");
        assert_eq!((pool.idle(), pool.live()), (1, 2));
    }

    proptest! {
        #[test]
        fn never_more_than_the_maximum_are_live(max in 0usize..5, steps in prop::collection::vec(0..5, 0..60)) {
            let mut pool = Pool::new(max);
            let mut out = 0;
            for step in steps {
                match step {
                    0 | 1 => match pool.take() {
                        Take::Idle(()) | Take::Create => out += 1,
                        Take::Full => prop_assert_eq!(out, max),
                    },
                    2 if out > 0 => {
                        pool.give_back(());
                        out -= 1;
                    }
                    3 if out > 0 => {
                        pool.forget();
                        out -= 1;
                    }
                    4 => drop(pool.expire(0, |()| true)),
                    _ => drop(pool.trim(1)),
                }
                prop_assert!(pool.live() <= max);
                prop_assert_eq!(pool.live(), out + pool.idle());
            }
        }
    }
}
