//! `scale-ckpt analyze`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use scale_ckpt::Result;
use scale_ckpt::analyze::{Analysis, analyze};
use scale_ckpt::data::{Split, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::figures::figure;
use scale_ckpt::report::{analysis as report, html, text};

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
    /// cpu, cuda, wgpu, cuda:N or wgpu:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Write pictures to this file: a page that stands alone.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
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
                "--context {context}: {} reads 1 to {}",
                self.checkpoint,
                counted(longest, "token", "tokens")
            )));
        }
        let tokenizer = tokenizer(&checkpoint)?;
        let vocab_size = checkpoint.config.vocab_size;
        let text = Tokens::open(&self.text, Split::Val, &tokenizer, vocab_size)?;
        let model = load_model(&checkpoint, &device)?;
        let analysis = analyze(&model, &text, context, self.windows.into(), &device)?;
        if let Some(path) = &self.html {
            let page = html::render(&report::document(&analysis, &self.checkpoint));
            durable::write_file(path, page.as_bytes())?;
        }
        if self.json {
            return print_json(&analysis);
        }
        print(&render(&analysis))
    }
}

fn render(analysis: &Analysis) -> String {
    format!(
        "{}\n\nloss as it is: {}{} nats per token, {} in windows of {}\n\
         influence: 1 - mean cosine of the residual stream before and after",
        text::table(&report::table(analysis)),
        figure(analysis.loss.mean, 4),
        analysis.loss.plus_minus(),
        counted(thousands(analysis.tokens), "token", "tokens"),
        analysis.context
    )
}
