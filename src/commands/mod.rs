//! One file per subcommand: its arguments and what it does with them.

pub mod analyze;
pub mod bench;
pub mod compare;
pub mod completions;
mod conductor;
mod cost;
pub mod data;
pub mod diff;
pub mod doctor;
pub mod eval;
mod experiment;
mod family;
pub mod generate;
pub mod grow;
pub mod inspect;
pub mod logits;
pub mod man;
pub mod merge;
pub mod methods;
pub mod plan;
pub mod scores;
pub mod search;
pub mod shared;
pub mod start;
mod tasks;
pub mod train;
pub mod watcher;
