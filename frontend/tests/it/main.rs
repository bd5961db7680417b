//! Tests of the whole frontend: goldens, properties, a second opinion, and the example's graph.

mod example;
mod faults;
mod golden;
mod lint;
mod properties;
mod rules;
mod second_opinion;
mod support;
mod triggers;
