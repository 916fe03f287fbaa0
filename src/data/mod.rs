//! From text to batches of token ids.

pub mod batches;
pub mod tokenizer;
pub mod tokens;

pub use batches::Batches;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
