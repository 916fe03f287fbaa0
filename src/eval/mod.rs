//! Scoring a model: validation loss on text, HellaSwag.

pub mod hellaswag;
pub mod loss;

pub use hellaswag::HellaSwagScore;
pub use loss::TextLoss;
