//! Much small work done by a few threads while more of it is still being found.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use crate::config::processors;
use crate::side_by_side::MOST;

/// Runs `work` on what `find` hands out while it looks for more, and waits for all. Nothing is
/// handed out while `most` items are on their way, counted from the first that is not done: `find`
/// then takes turns itself. Where some fail no more are begun, and the failure of the first in
/// order is returned, before that of `find`. Blocking.
pub(crate) fn hand_out<T: Send, E: Send, R>(
    most: usize,
    work: impl Fn(T) -> Result<(), E> + Sync,
    find: impl FnOnce(&mut Crew<'_, '_, T, E>) -> Result<R, E>,
) -> Result<R, E> {
    let state = Mutex::new(State {
        waiting: VecDeque::new(),
        running: Vec::new(),
        handed: 0,
        failed: None,
        is_over: false,
    });
    let shared =
        Shared { work: &work, most, state, handed: Condvar::new(), finished: Condvar::new() };
    thread::scope(|scope| {
        let _end = End(&shared);
        // One more than there are processors: now and then each waits for the disk.
        let unstarted = processors().get().min(MOST);
        let mut crew = Crew { scope, shared: &shared, unstarted };
        let found = find(&mut crew);
        if found.is_err() {
            shared.lock().waiting.clear();
        }
        crew.wait()?;
        found
    })
}

/// Several threads, and who hands out work to them.
pub(crate) struct Crew<'scope, 'env, T, E> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env, T, E>,
    /// Threads that may be started when there is work for them.
    unstarted: usize,
}

impl<T: Send, E: Send> Crew<'_, '_, T, E> {
    /// Hands out `item`.
    pub(crate) fn push(&mut self, item: T) -> Result<(), E> {
        let shared = self.shared;
        let mut state = shared.lock();
        while state.failed.is_none() && state.on_their_way() >= shared.most {
            state = shared.help(state);
        }
        if state.failed.is_some() {
            drop(state);
            return self.wait();
        }
        let number = state.handed;
        state.handed += 1;
        state.waiting.push_back((number, item));
        // The first is left to this thread, which may have nothing else to do.
        if number > 0 && self.unstarted > 0 {
            self.unstarted -= 1;
            self.scope.spawn(|| shared.stay());
        }
        drop(state);
        shared.handed.notify_one();
        Ok(())
    }

    /// Waits until all is done that was handed out.
    pub(crate) fn wait(&mut self) -> Result<(), E> {
        let mut state = self.shared.lock();
        while state.on_their_way() > 0 {
            state = self.shared.help(state);
        }
        state.failed.take().map_or(Ok(()), |(_, error)| Err(error))
    }
}

struct Shared<'env, T, E> {
    work: &'env (dyn Fn(T) -> Result<(), E> + Sync),
    most: usize,
    state: Mutex<State<T, E>>,
    /// Tells those who have nothing to do.
    handed: Condvar,
    /// Tells who waits for others.
    finished: Condvar,
}

struct State<T, E> {
    /// Items with their numbers, in order.
    waiting: VecDeque<(usize, T)>,
    running: Vec<usize>,
    /// How many there were so far.
    handed: usize,
    failed: Option<(usize, E)>,
    is_over: bool,
}

impl<T, E> State<T, E> {
    fn on_their_way(&self) -> usize {
        let waiting = self.waiting.front().map(|(number, _)| *number);
        let first = self.running.iter().copied().chain(waiting).min();
        first.map_or(0, |first| self.handed - first)
    }
}

type Locked<'a, T, E> = MutexGuard<'a, State<T, E>>;

impl<T, E> Shared<'_, T, E> {
    fn lock(&self) -> Locked<'_, T, E> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes turns until there is nothing more to come.
    fn stay(&self) {
        let mut state = self.lock();
        loop {
            state = if let Some((number, item)) = state.waiting.pop_front() {
                self.run(state, number, item)
            } else if state.is_over {
                return;
            } else {
                self.handed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Takes a turn, or waits for the end of another's.
    fn help<'a>(&'a self, mut state: Locked<'a, T, E>) -> Locked<'a, T, E> {
        match state.waiting.pop_front() {
            Some((number, item)) => self.run(state, number, item),
            None => self.finished.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn run<'a>(&'a self, mut state: Locked<'a, T, E>, number: usize, item: T) -> Locked<'a, T, E> {
        state.running.push(number);
        drop(state);
        let turn = Turn { shared: self, number };
        let failed = (self.work)(item).err();
        if let Some(error) = failed {
            let mut state = self.lock();
            state.waiting.clear();
            if state.failed.as_ref().is_none_or(|(first, _)| number < *first) {
                state.failed = Some((number, error));
            }
        }
        drop(turn);
        self.lock()
    }
}

/// A turn that somebody takes, until it is dropped: by a panic too, which others must not wait for.
struct Turn<'a, T, E> {
    shared: &'a Shared<'a, T, E>,
    number: usize,
}

impl<T, E> Drop for Turn<'_, T, E> {
    fn drop(&mut self) {
        self.shared.lock().running.retain(|running| *running != self.number);
        self.shared.finished.notify_all();
    }
}

/// Sends the threads home when it is dropped.
struct End<'a, T, E>(&'a Shared<'a, T, E>);

impl<T, E> Drop for End<'_, T, E> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.handed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_is_done_and_the_first_failure_counts() {
        for most in [1, 2, 8] {
            let done = Mutex::new(vec![false; 1000]);
            let work = |at: usize| {
                let first = done.lock().unwrap().iter().position(|done| !done).unwrap();
                assert!(at < first + most, "{at} began when {first} was on its way");
                thread::yield_now();
                let was_done = std::mem::replace(&mut done.lock().unwrap()[at], true);
                assert!(!was_done, "{at} was done twice");
                Ok::<(), usize>(())
            };
            let found = hand_out(most, work, |crew| {
                (0..500).try_for_each(|at| crew.push(at))?;
                crew.wait()?;
                assert!(done.lock().unwrap()[..500].iter().all(|done| *done));
                (500..1000).try_for_each(|at| crew.push(at))?;
                Ok("found")
            });
            assert_eq!(found, Ok("found"));
            assert!(done.lock().unwrap().iter().all(|done| *done));
            for first in [0, 1, 500, 999] {
                let work = |at| if at < first { Ok(()) } else { Err(at) };
                let find =
                    |crew: &mut Crew<'_, '_, _, _>| (0..1000).try_for_each(|at| crew.push(at));
                assert_eq!(hand_out(most, work, find), Err(first));
            }
            assert_eq!(hand_out(most, |_: usize| Ok(()), |_| Err::<(), _>("find")), Err("find"));
        }
    }

    #[test]
    fn nobody_waits_for_whom_a_panic_has_ended() {
        for bad in [0, 1, 99] {
            let hand_out = || {
                let work = |at: usize| {
                    assert!(at != bad, "this one panics");
                    Ok::<(), ()>(())
                };
                hand_out(4, work, |crew| (0..100).try_for_each(|at| crew.push(at)))
            };
            assert!(std::panic::catch_unwind(hand_out).is_err());
        }
    }
}
