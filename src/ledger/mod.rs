//! What training costs: arithmetic in two accounts, and memory.
//!
//! The *paper's* account ([`paper`]) is that of arXiv 2411.18700: layers are all that counts,
//! and a backward pass costs as much as a forward pass. The *true* account ([`flops`]) counts
//! every matrix product, and of the backward pass what the trained parameters need. Growth
//! papers mostly reckon in the first, users pay the second.
//!
//! Everything here is a function of the architecture and of which parameters train; nothing
//! is measured.

pub mod flops;
pub mod memory;
pub mod paper;
pub mod source;

pub use flops::{Flops, layer_equivalents_of_head, mfu, per_token};
pub use memory::{Memory, MicroBatch, memory_estimate};
pub use paper::LayerPasses;
pub use source::{KnownSource, known_source};

/// Whether the parameter of a name, as in [`crate::checkpoint::layout`], is trained.
pub type Trains<'a> = dyn Fn(&str) -> bool + 'a;

#[cfg(test)]
mod tests;
