//! The steps that a build is going to run: no more is made ahead than they will take.

use std::sync::{Arc, Mutex, PoisonError};

use super::network::Networks;
use super::pool::Pool;
use super::spec::Network;

/// What of the forecast of one build has not begun; ends with what is left of it.
#[derive(Debug)]
pub(super) struct Forecast {
    helpers: Arc<Pool>,
    networks: Arc<Networks>,
    left: Mutex<Vec<Network>>,
}

impl Forecast {
    /// Has helpers and networks made ready for steps with these networks.
    pub(super) fn new(helpers: Arc<Pool>, networks: Arc<Networks>, steps: Vec<Network>) -> Self {
        helpers.expect(steps.len());
        for network in [Network::Private, Network::None] {
            let count = steps.iter().filter(|step| **step == network).count();
            networks.expect(network, count);
        }
        Self { helpers, networks, left: Mutex::new(steps) }
    }

    /// Takes note of a step that asks for what it needs from here on. A step that was not foreseen
    /// changes nothing.
    pub(super) fn begin(&self, network: Network) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = left.iter().position(|step| *step == network) {
            left.swap_remove(at);
            self.forget(network);
        }
    }

    fn forget(&self, network: Network) {
        self.helpers.forget();
        self.networks.forget(network);
    }
}

impl Drop for Forecast {
    fn drop(&mut self) {
        let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
        for network in std::mem::take(left) {
            self.forget(network);
        }
    }
}
