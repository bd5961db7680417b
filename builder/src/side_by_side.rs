//! Much small work done by a few threads at once.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::config::processors;

/// Threads beyond which a file system hardly gets faster at small files.
pub(crate) const MOST: usize = 4;

/// Runs `work` on each of `items` and waits for all. Where some fail no more are begun, and the
/// failure of the first in order is returned. Blocking.
pub(crate) fn try_each<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    Hands::new().try_each(items, work)
}

/// Threads that lend a hand wherever there is something to do for them, also deep inside of work
/// that is shared already.
#[derive(Debug)]
pub(crate) struct Hands {
    free: AtomicUsize,
}

impl Hands {
    /// As many as there are processors, with the caller's own.
    pub(crate) fn new() -> Self {
        Self { free: AtomicUsize::new(processors().get().min(MOST) - 1) }
    }

    fn take(&self) -> bool {
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Runs `work` as [`try_each`] does, by the caller and by all hands that are free while some
    /// items are left.
    pub(crate) fn try_each<T: Sync, E: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        let take_turn = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return false };
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                    *failed = Some((at, error));
                }
            }
            true
        };
        thread::scope(|scope| {
            loop {
                while next.load(Ordering::Relaxed) + 1 < items.len() && self.take() {
                    scope.spawn(|| {
                        while take_turn() {}
                        self.free.fetch_add(1, Ordering::Relaxed);
                    });
                }
                if !take_turn() {
                    return;
                }
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Runs `work` on each of `items` as [`Self::try_each`] does, and returns what it made of them,
    /// in their order.
    pub(crate) fn try_map<T: Sync, U: Send + Sync, E: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<U, E> + Sync,
    ) -> Result<Vec<U>, E> {
        let made: Vec<OnceLock<U>> = items.iter().map(|_| OnceLock::new()).collect();
        let pairs: Vec<(&T, &OnceLock<U>)> = items.iter().zip(&made).collect();
        self.try_each(&pairs, |(item, made)| {
            let value = work(item)?;
            // Every item has one turn.
            let _ = made.set(value);
            Ok(())
        })?;
        let made = made.into_iter().map(OnceLock::into_inner);
        Ok(made.map(|it| it.expect("nothing failed, so every item had its turn")).collect())
    }
}

/// What was found out of some items of a list before their turn came.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    start: usize,
    found: Vec<Option<T>>,
}

impl<T> Ahead<T> {
    /// Knows of nothing.
    pub(crate) const fn nothing() -> Self {
        Self { start: 0, found: Vec::new() }
    }

    /// Whether `at` lies beyond those that were looked at.
    pub(crate) fn is_over(&self, at: usize) -> bool {
        at >= self.start + self.found.len()
    }

    /// Hands out what was found of the item at `at`; `None` leaves it to its turn.
    pub(crate) fn take(&mut self, at: usize) -> Option<T> {
        self.found.get_mut(at.checked_sub(self.start)?)?.take()
    }
}

impl<T: Send + Sync> Ahead<T> {
    /// Looks at `items`, the first of which is at `start` in the list. Below `worth` of them another
    /// thread costs more than it saves: all are left to their turns. Blocking.
    pub(crate) fn of<I: Sync>(
        start: usize,
        items: &[I],
        worth: usize,
        look: impl Fn(&I) -> Option<T> + Sync,
    ) -> Self {
        let mut found: Vec<OnceLock<T>> = Vec::new();
        found.resize_with(items.len(), OnceLock::new);
        if items.len() >= worth && processors().get() > 1 {
            let pairs: Vec<(&I, &OnceLock<T>)> = items.iter().zip(&found).collect();
            let done: Result<(), Infallible> = try_each(&pairs, |(item, found)| {
                if let Some(value) = look(item) {
                    let _ = found.set(value);
                }
                Ok(())
            });
            let Ok(()) = done;
        }
        Self { start, found: found.into_iter().map(OnceLock::into_inner).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_turn_and_the_first_failure_counts() {
        let items: Vec<usize> = (0..1000).collect();
        let seen = Mutex::new(vec![0; items.len()]);
        let see = |at: usize| seen.lock().unwrap()[at] += 1;
        try_each(&items, |&at| -> Result<(), ()> {
            see(at);
            Ok(())
        })
        .unwrap();
        assert!(seen.lock().unwrap().iter().all(|times| *times == 1));
        for first in [0, 1, 500, 999] {
            let failed = try_each(&items, |&at| if at < first { Ok(()) } else { Err(at) });
            assert_eq!(failed, Err(first));
        }
    }

    #[test]
    fn shared_work_inside_of_shared_work_is_told_in_order() {
        let hands = Hands::new();
        let free = hands.free.load(Ordering::Relaxed);
        let items: Vec<usize> = (0..40).collect();
        let product = |a: usize| hands.try_map(&items, |&b| Ok::<_, usize>(a * b));
        let table = hands.try_map(&items, |&a| product(a)).unwrap();
        for (a, row) in table.iter().enumerate() {
            assert_eq!(*row, items.iter().map(|b| a * b).collect::<Vec<_>>());
        }
        let row = |a: usize| hands.try_each(&items, |&b| if a * b < 99 { Ok(()) } else { Err(a) });
        assert_eq!(hands.try_each(&items, |&a| row(a)), Err(3));
        assert_eq!(hands.free.load(Ordering::Relaxed), free, "all hands are free again");
    }
}
