//! Comparing ways to spend compute: arms, budgets, curves, differences, and what they say.
//!
//! An *arm* is a recipe that is run with several seeds. [`config`] says which arms there are,
//! [`budget`] gives each as many tokens as the compute pays for, [`record`] reads what its runs
//! left behind, [`findings`] puts arms beside each other at equal compute, and [`verdict`] says
//! in words what that shows. Nothing here trains; a comparison of runs that exist is made of
//! their records alone.

pub mod budget;
pub mod config;
pub mod curve;
pub mod stats;

pub use budget::{Fit, Ledger, Spent};
pub use config::{Arm, CompareConfig};
pub use curve::{Crossing, Curve};
