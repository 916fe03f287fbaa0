//! `scale-ckpt eval`.

use std::path::PathBuf;

use scale_ckpt::Result;
use scale_ckpt::data::{Split, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::hellaswag;
use serde_json::json;

use super::scores::{Measures, render};
use super::shared::{load_model, open, print, print_json, tokenizer};

/// Score checkpoints: validation loss on a text, HellaSwag (completion protocol).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoints.
    #[arg(required = true)]
    checkpoints: Vec<String>,
    /// Text files, token shards, folders or globs for the validation loss.
    #[arg(long, value_name = "PATH")]
    val: Vec<PathBuf>,
    /// At most so many validation tokens.
    #[arg(long, value_name = "N")]
    val_tokens: Option<std::num::NonZeroU64>,
    /// Tokens per window of the validation loss; n_positions unless given.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// A HellaSwag file in the official jsonl form.
    #[arg(long, value_name = "FILE")]
    hellaswag: Option<PathBuf>,
    /// At most so many HellaSwag items, from the start.
    #[arg(long, value_name = "N")]
    limit: Option<std::num::NonZeroUsize>,
    /// cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        if self.val.is_empty() && self.hellaswag.is_none() {
            return Err(Error::usage("nothing to score on")
                .with_hint("give --val PATH, --hellaswag FILE, or both"));
        }
        let device = self.device.open()?;
        let items = self
            .hellaswag
            .as_ref()
            .map(|path| hellaswag::load(path, self.limit.map(usize::from)))
            .transpose()?
            .unwrap_or_default();
        let mut rows = Vec::new();
        for source in &self.checkpoints {
            let checkpoint = open(source)?;
            let longest = checkpoint.config.n_positions;
            let context = self.context.unwrap_or(longest);
            if context == 0 || context > longest {
                return Err(Error::usage(format!(
                    "--context {context}: {source} reads 1 to {longest} tokens"
                )));
            }
            let tokenizer = tokenizer(&checkpoint)?;
            let val = if self.val.is_empty() {
                None
            } else {
                let vocab_size = checkpoint.config.vocab_size;
                Some(Tokens::open(&self.val, Split::Val, &tokenizer, vocab_size)?)
            };
            let measures = Measures {
                tokenizer,
                val,
                context,
                val_tokens: self.val_tokens.map(u64::from),
                items: items.clone(),
                device: device.clone(),
            };
            let model = load_model(&checkpoint, &device)?;
            rows.push(measures.score(source.clone(), &model, &checkpoint.config)?);
        }
        if self.json {
            return print_json(
                &json!({ "schema": 1, "device": self.device.to_string(), "models": rows }),
            );
        }
        print(&render(&rows))
    }
}
