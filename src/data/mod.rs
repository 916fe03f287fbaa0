//! From text to batches of token ids.

mod added_tokens;
pub(crate) mod address;
pub mod batches;
mod bpe;
pub(crate) mod format;
pub mod inputs;
pub(crate) mod listing;
mod magic;
mod npy;
pub mod order;
pub mod overlap;
mod plausible;
pub mod prepare;
pub(crate) mod records;
pub mod shard;
pub(crate) mod source;
pub mod tokenizer;
mod tokenizer_files;
pub mod tokens;
mod words;

pub use batches::Batches;
pub use inputs::{Inputs, Split};
pub use order::Order;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
