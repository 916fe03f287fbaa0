//! From text to batches of token ids.

mod added_tokens;
pub mod batches;
mod bpe;
pub mod inputs;
mod npy;
pub mod order;
pub mod prepare;
pub mod shard;
pub mod tokenizer;
mod tokenizer_files;
pub mod tokens;
mod words;

pub use batches::Batches;
pub use inputs::{Inputs, Split};
pub use order::Order;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
