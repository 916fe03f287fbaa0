//! What published checkpoints cost to train, as far as anybody said.

use super::flops::per_token;
use crate::checkpoint::Gpt2Config;

/// Training of a published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSource {
    /// Tokens seen in training, repetitions included.
    pub tokens: u64,
    /// Whether `tokens` is an estimate of others and not the word of who trained it.
    pub estimated: bool,
    /// Where the number comes from and how far to trust it.
    pub note: &'static str,
}

impl KnownSource {
    /// Operations of its training in the true account, at the full context: for GPT-2 within a
    /// tenth of the customary 6 · parameters · tokens.
    pub fn flops(&self, config: &Gpt2Config) -> f64 {
        per_token(config, config.n_positions, &|_| true).over(self.tokens)
    }
}

/// OpenAI never said how long it trained GPT-2. Its paper gives the data (WebText, "slightly
/// over 8 million documents for a total of 40 GB of text"), the batch (512) and the context
/// (1024), but no number of steps.
const OPENAI: KnownSource = KnownSource {
    tokens: 100_000_000_000,
    estimated: true,
    note: "OpenAI published no token count; 100B is the figure customarily quoted, about ten \
           passes over the roughly 9B tokens of WebText's replica OpenWebText. Epoch AI assumes \
           100 passes over 10.7B tokens, ten times as much",
};

const LLMC_100B: KnownSource = KnownSource {
    tokens: 100_000_000_000,
    estimated: false,
    note: "100B tokens of FineWeb-Edu, as its model card says",
};

const LLMC_150B: KnownSource = KnownSource {
    tokens: 150_000_000_000,
    estimated: false,
    note: "150B tokens of FineWeb, as its model card says",
};

/// What is known of the checkpoint that the hub calls `name`; none where nobody said enough.
pub fn known_source(name: &str) -> Option<KnownSource> {
    match name.strip_prefix("openai-community/").unwrap_or(name) {
        "gpt2" | "gpt2-medium" | "gpt2-large" | "gpt2-xl" => Some(OPENAI),
        "yuchenj/gpt2_124M_100B_FinewebEdu_hf"
        | "yuchenj/gpt2_350M_100B_FinewebEdu_hf"
        | "yuchenj/gpt2_774M_100B_FinewebEdu_hf" => Some(LLMC_100B),
        "mdouglas/llmc-gpt2-774M-150B" => Some(LLMC_150B),
        _ => None,
    }
}
