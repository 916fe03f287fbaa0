//! `scale-ckpt analyze`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use scale_ckpt::Result;
use scale_ckpt::analyze::{Analysis, Estimate, analyze};
use scale_ckpt::data::{Split, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::report::table;

use super::shared::{load_model, open, print, print_json, thousands, tokenizer};

/// Measure what each block of a checkpoint does: how far it turns the residual stream, and how
/// the loss changes when it is skipped or run twice.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint.
    checkpoint: String,
    /// Text files, token shards, folders or globs to measure on.
    #[arg(long, required = true, value_name = "PATH")]
    text: Vec<PathBuf>,
    /// Windows of it.
    #[arg(long, value_name = "N", default_value = "16")]
    windows: NonZeroUsize,
    /// Tokens per window; n_positions, 256 at most, unless given.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Print JSON, with the angles between all pairs of depths.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let device = self.device.open()?;
        let checkpoint = open(&self.checkpoint)?;
        let longest = checkpoint.config.n_positions;
        let context = self.context.unwrap_or(longest.min(256));
        if context == 0 || context > longest {
            return Err(Error::usage(format!(
                "--context {context}: {} reads 1 to {longest} tokens",
                self.checkpoint
            )));
        }
        let tokenizer = tokenizer(&checkpoint)?;
        let vocab_size = checkpoint.config.vocab_size;
        let text = Tokens::open(&self.text, Split::Val, &tokenizer, vocab_size)?;
        let model = load_model(&checkpoint, &device)?;
        let analysis = analyze(&model, &text, context, self.windows.into(), &device)?;
        if self.json {
            return print_json(&analysis);
        }
        print(&render(&analysis))
    }
}

fn render(analysis: &Analysis) -> String {
    let header = [
        "layer",
        "rms in",
        "rms added",
        "influence",
        "angle / π",
        "loss if skipped",
        "loss if twice",
    ];
    let change = |e: Estimate| format!("{:+.4} ± {:.4}", e.mean, e.stderr);
    let cells = analysis.blocks.iter().map(|block| {
        vec![
            block.layer.to_string(),
            format!("{:.3}", block.rms_in),
            format!("{:.3}", block.rms_update),
            format!("{:.4}", block.influence),
            format!("{:.4}", analysis.angular[block.layer][0]),
            change(block.skipped),
            change(block.twice),
        ]
    });
    let table = table::render(&header, &[true; 7], &cells.collect::<Vec<_>>());
    format!(
        "{table}\n\nloss as it is: {:.4} ± {:.4} nats per token, {} tokens in windows of {}\n\
         influence: 1 - mean cosine of the residual stream before and after",
        analysis.loss.mean,
        analysis.loss.stderr,
        thousands(analysis.tokens),
        analysis.context
    )
}
