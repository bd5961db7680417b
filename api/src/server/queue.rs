//! Which builds run now, and which wait for them.
//!
//! Invariant: a build begins as soon as fewer than the limit run, of all and of its client's, in
//! the order in which they came: a client at its own limit holds nobody else up.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::error::ApiError;

/// How many builds may run and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Running at once.
    pub(crate) builds: NonZeroUsize,
    /// Running at once for one client.
    pub(crate) builds_per_client: NonZeroUsize,
    /// Waiting; a further one is refused.
    pub(crate) waiting: usize,
}

/// The builds of one service. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limits: QueueLimits,
    running: usize,
    of_client: HashMap<String, usize>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    client: String,
    /// 1 for the first; 0 once it is its turn.
    place: watch::Sender<usize>,
}

/// A build that waits or runs. Dropping it makes room for the next.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Queue,
    number: u64,
    client: String,
    place: watch::Receiver<usize>,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        let (of_client, waiting) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State { limits, running: 0, of_client, waiting, next: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the last place for a build of `client`, or begins at once.
    ///
    /// # Errors
    ///
    /// [`ApiError::Busy`] when too many wait.
    pub(super) fn enter(&self, client: &str) -> Result<Turn, ApiError> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let (sender, place) = watch::channel(usize::MAX);
        let client = client.to_owned();
        state.waiting.push_back(Waiting { number, client: client.clone(), place: sender });
        state.advance();
        if state.waiting.len() > state.limits.waiting {
            state.waiting.retain(|it| it.number != number);
            return Err(ApiError::Busy);
        }
        Ok(Turn { queue: self.clone(), number, client, place })
    }

    /// Lets other limits hold from now on; what runs is left alone.
    pub(super) fn set_limits(&self, limits: QueueLimits) {
        let mut state = self.state();
        state.limits = limits;
        state.advance();
    }

    /// Returns how many builds run, and how many wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.running, state.waiting.len())
    }
}

impl State {
    /// Begins what may begin, and tells the others their places.
    fn advance(&mut self) {
        let mut index = 0;
        while self.running < self.limits.builds.get() && index < self.waiting.len() {
            let client = &self.waiting[index].client;
            let of_client = self.of_client.get(client).copied().unwrap_or_default();
            if of_client >= self.limits.builds_per_client.get() {
                index += 1;
                continue;
            }
            let begun = self.waiting.remove(index).expect("it was just looked at");
            self.running += 1;
            *self.of_client.entry(begun.client).or_default() += 1;
            begun.place.send_replace(0);
        }
        for (index, waiting) in self.waiting.iter().enumerate() {
            let place = index + 1;
            waiting.place.send_if_modified(|old| std::mem::replace(old, place) != place);
        }
    }
}

impl Turn {
    /// Returns the place in the queue, and every later one when it has changed; `None` once the
    /// build may begin.
    pub(super) async fn next_place(&mut self) -> Option<usize> {
        // The first was sent on entering; the sender goes only after it has sent the 0.
        self.place.changed().await.ok()?;
        let place = *self.place.borrow_and_update();
        (place > 0).then_some(place)
    }

    /// Tells where the build stands in the queue: 0 once it runs.
    pub(super) fn place(&self) -> watch::Receiver<usize> {
        self.place.clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let before = state.waiting.len();
        state.waiting.retain(|it| it.number != self.number);
        if state.waiting.len() == before {
            state.running -= 1;
            if let Some(count) = state.of_client.get_mut(&self.client) {
                *count -= 1;
                if *count == 0 {
                    state.of_client.remove(&self.client);
                }
            }
        }
        state.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(builds: usize, builds_per_client: usize, waiting: usize) -> Queue {
        let number = |count| NonZeroUsize::new(count).unwrap();
        let (builds, builds_per_client) = (number(builds), number(builds_per_client));
        Queue::new(QueueLimits { builds, builds_per_client, waiting })
    }

    fn places(turns: &[&Turn]) -> Vec<usize> {
        turns.iter().map(|turn| *turn.place.borrow()).collect()
    }

    #[test]
    fn the_first_that_came_is_the_first_that_begins() {
        let queue = queue(2, 2, 10);
        let [one, two, three, four] = [(); 4].map(|()| queue.enter("x").unwrap());
        assert_eq!(places(&[&one, &two, &three, &four]), [0, 0, 1, 2]);
        drop(two);
        assert_eq!(places(&[&one, &three, &four]), [0, 0, 1]);
        let last = queue.enter("x").unwrap();
        drop(four);
        assert_eq!(places(&[&one, &three, &last]), [0, 0, 1]);
        drop((one, three));
        assert_eq!((places(&[&last]), queue.counts()), (vec![0], (1, 0)));
        drop(last);
        assert_eq!(queue.counts(), (0, 0));
    }

    #[test]
    fn a_client_at_its_limit_holds_nobody_up() {
        let queue = queue(2, 1, 10);
        let [a, b] = [(); 2].map(|()| queue.enter("x").unwrap());
        let other = queue.enter("y").unwrap();
        assert_eq!(places(&[&a, &b, &other]), [0, 1, 0]);
        drop(other);
        assert_eq!(places(&[&a, &b]), [0, 1]);
        drop(a);
        assert_eq!(places(&[&b]), [0]);
    }

    #[test]
    fn a_full_queue_takes_no_more_until_limits_are_raised() {
        let queue = queue(1, 1, 1);
        let _running = queue.enter("x").unwrap();
        let waiting = queue.enter("y").unwrap();
        assert!(matches!(queue.enter("z"), Err(ApiError::Busy)));
        assert_eq!(queue.counts(), (1, 1));
        let two = NonZeroUsize::new(2).unwrap();
        queue.set_limits(QueueLimits { builds: two, builds_per_client: two, waiting: 1 });
        assert_eq!(places(&[&waiting]), [0]);
        assert_eq!(places(&[&queue.enter("z").unwrap()]), [1]);
    }

    #[tokio::test]
    async fn places_are_told_until_it_is_time() {
        let queue = queue(1, 1, 5);
        let mut running = vec![queue.enter("a").unwrap(), queue.enter("b").unwrap()];
        running.reverse();
        let mut last = queue.enter("c").unwrap();
        let mut told = Vec::new();
        while let Some(place) = last.next_place().await {
            told.push(place);
            drop(running.pop());
        }
        assert_eq!(told, [2, 1]);
    }
}
