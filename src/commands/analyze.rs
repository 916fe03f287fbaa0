//! `scale-ckpt analyze`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::analyze::{Analysis, analyze};
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::data::{Inputs, Split, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::figures::figure;
use scale_ckpt::report::{analysis as report, html, text};

use super::output::{Output, files_of};
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
    /// Replace a file that is there, unless it is read here; a page of analyze is replaced in any
    /// case.
    #[arg(long, requires = "html")]
    force: bool,
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
        let output = self.output(&checkpoint)?;
        if let Some(output) = &output {
            output.check()?;
        }
        let model = load_model(&checkpoint, &device)?;
        let analysis = analyze(&model, &text, context, self.windows.into(), &device)?;
        if let Some(output) = &output {
            let page = html::render(&report::document(&analysis, &self.checkpoint));
            output.write(page.as_bytes())?;
        }
        if self.json {
            return print_json(&analysis);
        }
        print(&render(&analysis))
    }

    /// The page, if one is wanted.
    fn output(&self, checkpoint: &Checkpoint) -> Result<Option<Output<'_>>> {
        let Some(path) = &self.html else {
            return Ok(None);
        };
        let (Inputs::Text(text) | Inputs::Shards(text)) = Inputs::resolve(&self.text, Split::Val)?;
        let mut inputs = files_of(checkpoint, is_ours)?;
        inputs.extend(text);
        Ok(Some(Output {
            path,
            kind: "a page of analyze",
            is_ours,
            force: self.force,
            inputs,
        }))
    }
}

/// Whether a file is of those that are written here.
fn is_ours(_: &Path, beginning: &[u8]) -> bool {
    let text = String::from_utf8_lossy(beginning);
    let title = format!("<title>{}", report::TITLE);
    text.contains(html::GENERATOR) && text.contains(&title)
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
