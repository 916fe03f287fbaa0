#![doc = include_str!("../README.md")]

pub mod account;
pub mod allocator;
pub mod analyze;
pub mod certify;
pub mod checkpoint;
pub mod claim;
pub mod clean;
pub mod compare;
pub mod cuda;
pub mod data;
pub mod device;
pub mod durable;
pub mod error;
pub mod eval;
pub mod events;
pub mod generate;
pub mod grower;
pub mod growth;
pub mod home;
pub mod inspect;
pub mod interrupt;
pub mod kernels;

pub mod ledger;
pub mod lock;
pub mod manifest;
pub mod model;
pub mod owner;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod run;
pub mod settings;
pub mod stages;
pub mod train;

pub use error::{Error, Result};

/// Version of the program with the commit it was built from, as written into every artefact.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SCALE_CKPT_COMMIT"),
    ")"
);
