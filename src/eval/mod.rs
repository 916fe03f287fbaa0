//! Scoring models: tasks in their protocols, loss and perplexity on text.
//!
//! A [`task`] makes [`dataset`] documents of [`rows`]; [`encode`] makes sequences of tokens of
//! them, the [`engine`] log-likelihoods of these, and [`score`] what users read. The [`folder`]
//! keeps every item's score, so that an evaluation can be stopped, shared out, and looked at
//! again without a model.

pub mod certainty;
pub mod dataset;
pub mod encode;
pub mod engine;
pub mod figures;
pub mod folder;
pub mod loss;
pub mod paired;
pub mod position;
pub mod prepared;
pub mod published;
pub mod python;
pub mod report;
pub mod rows;
pub mod score;
pub mod task;
pub mod tasks;

pub use loss::TextLoss;
