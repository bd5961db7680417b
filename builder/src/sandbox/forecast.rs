//! The steps that a build is going to run: no more is made ahead than they will take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::network::Networks;
use super::pool::Pool;
use super::spec::Network;

/// What the steps of one build have not taken yet; ends with what is left of it.
#[derive(Debug)]
pub(super) struct Forecast {
    helpers: Arc<Pool>,
    networks: Arc<Networks>,
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    helpers: usize,
    networks: Vec<Network>,
}

impl Forecast {
    /// Has helpers and networks made ready for steps with these networks.
    pub(super) fn new(helpers: Arc<Pool>, networks: Arc<Networks>, steps: Vec<Network>) -> Self {
        helpers.expect(steps.len());
        for network in [Network::Private, Network::None] {
            let count = steps.iter().filter(|step| **step == network).count();
            networks.expect(network, count);
        }
        let left = Mutex::new(Left { helpers: steps.len(), networks: steps });
        Self { helpers, networks, left }
    }

    /// Takes note that a step takes a helper; tells whether one was expected to.
    pub(super) fn take_helper(&self) -> bool {
        let mut left = self.left();
        let is_expected = left.helpers > 0;
        left.helpers -= usize::from(is_expected);
        is_expected
    }

    /// Takes note that a step takes a network; tells whether one was expected to.
    pub(super) fn take_network(&self, network: Network) -> bool {
        let mut left = self.left();
        let at = left.networks.iter().position(|step| *step == network);
        at.map(|at| left.networks.swap_remove(at)).is_some()
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Forecast {
    fn drop(&mut self) {
        let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.helpers.forget(left.helpers);
        for network in std::mem::take(&mut left.networks) {
            self.networks.forget(network);
        }
    }
}
