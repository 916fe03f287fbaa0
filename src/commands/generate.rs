//! `scale-ckpt generate`.

use std::io::Write;

use scale_ckpt::Result;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::generate::{Sampling, generate};

use super::shared::{load_model, open, print, tokenizer};

/// Continue a prompt.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint.
    checkpoint: String,
    /// The text to continue; an empty one starts a new document. What the tokenizer puts in front
    /// of texts is put in front of it.
    #[arg(long, default_value = "")]
    prompt: String,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 100)]
    tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Choose among so many of the likeliest tokens; 0 means all.
    #[arg(long, default_value_t = 50)]
    top_k: usize,
    /// Seed of the choices.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::usage(format!(
                "--temperature {} must be a number from 0",
                self.temperature
            )));
        }
        let device = self.device.open()?;
        let checkpoint = open(&self.checkpoint)?;
        let tokenizer = tokenizer(&checkpoint)?;
        let model = load_model(&checkpoint, &device)?;
        let mut ids = tokenizer.encode_prompt(&self.prompt)?;
        if self.prompt.is_empty() {
            ids = tokenizer.document_start()?;
        }
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            seed: self.seed,
        };
        let mut made = Vec::new();
        let mut shown = 0;
        write(&self.prompt)?;
        // Tokens can end inside a character: what is shown ends before a replacement mark.
        generate(
            &model,
            &ids,
            self.tokens,
            tokenizer.end_of_text()?,
            sampling,
            &mut |id| {
                made.push(id);
                let text = tokenizer.decode(&made)?;
                if !text.ends_with('\u{fffd}') && text.len() > shown {
                    write(&text[shown..])?;
                    shown = text.len();
                }
                Ok(())
            },
        )?;
        print(tokenizer.decode(&made)?.get(shown..).unwrap_or_default())
    }
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(e))
        }
        _ => Ok(()),
    }
}
