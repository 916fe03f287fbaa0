//! Comparing ways to spend compute: arms, budgets, curves, differences, and what they say.
//!
//! An *arm* is a recipe that is run with several seeds. [`config`] says which arms there are,
//! [`budget`] gives each as many tokens as the compute pays for, [`record`] reads what its runs
//! left behind, [`matching`] refuses what cannot be compared, [`findings`] puts arms beside each
//! other at equal compute, and [`verdict`] says in words what that shows. Nothing here trains: a
//! comparison is made of the records of its runs alone.

pub mod budget;
pub mod caveats;
pub mod config;
pub mod curve;
pub mod findings;
pub mod folder;
pub mod matching;
pub mod record;
pub mod search;
pub mod stats;
pub mod verdict;

pub use budget::{Fit, Ledger, Spent};
pub use config::{Arm, CompareConfig};
pub use curve::{Crossing, Curve};
pub use findings::Findings;
pub use matching::ArmRuns;
pub use record::RunRecord;
