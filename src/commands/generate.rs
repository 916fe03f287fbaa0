//! `scale-ckpt generate`.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use scale_ckpt::data::Tokenizer;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::generate::{Sampling, generate};
use scale_ckpt::model::Gpt2;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::{Result, interrupt};

use super::shared::{load_model, open, thousands, tokenizer};

/// Continue a prompt.
///
/// As in `transformers`, the temperature is applied first, then --top-k, then --top-p.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint.
    checkpoint: String,
    /// The text to continue, or - for standard input, which is also read where it is no terminal
    /// and no prompt is given; one newline at its end is left out. An empty prompt starts a new
    /// document. What the tokenizer puts in front of texts is put in front of it.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 100, value_name = "N")]
    tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Choose among so many of the likeliest tokens; 0 means all.
    #[arg(long, default_value_t = 50, value_name = "K")]
    top_k: usize,
    /// Choose among the fewest of the likeliest tokens that together have this probability, above 0
    /// and up to 1; 1 means all.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f64,
    /// Seed of the choices.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let sampling = self.sampling()?;
        let device = self.device.open()?;
        let checkpoint = open(&self.checkpoint)?;
        let tokenizer = tokenizer(&checkpoint)?;
        let prompt = match self.prompt.as_deref() {
            Some("-") => standard_input()?,
            Some(prompt) => prompt.to_owned(),
            None if std::io::stdin().is_terminal() => String::new(),
            None => standard_input()?,
        };
        let mut ids = tokenizer.encode_prompt(&prompt)?;
        if prompt.is_empty() {
            ids = tokenizer.document_start()?;
        }
        if ids.is_empty() {
            return Err(Error::usage("the prompt has no tokens"));
        }
        let n_positions = checkpoint.config.n_positions;
        if ids.len() > n_positions {
            eprint_line(&format!(
                "note: the prompt has {} tokens, of which the model reads the last {}",
                thousands(ids.len() as u64),
                thousands(n_positions as u64)
            ));
        }
        let ids = &ids[ids.len().saturating_sub(n_positions)..];
        let model = load_model(&checkpoint, &device)?;
        match continued(&model, &tokenizer, &prompt, ids, self.tokens, sampling) {
            // Nobody reads on.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    }

    fn sampling(&self) -> Result<Sampling> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::usage(format!(
                "--temperature {} must be 0 or more",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::usage(format!(
                "--top-p {} must be a number above 0 and up to 1",
                self.top_p
            )));
        }
        Ok(Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}

/// Prints a prompt, which ends in `ids`, and, token by token, what the model makes of it.
fn continued(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    prompt: &str,
    ids: &[u32],
    tokens: usize,
    sampling: Sampling,
) -> Result<()> {
    let mut made = Vec::new();
    let mut shown = 0;
    // The token that begins a document is no text for the rest to follow.
    let before = if prompt.is_empty() { &[] } else { ids };
    // Without a token that ends a text, or an embedding for it, the model cannot end one.
    let stop = tokenizer.end_of_text().ok();
    write(prompt)?;
    // Tokens can end inside a character: what is shown ends before a replacement mark.
    generate(model, ids, tokens, stop, sampling, &mut |id| {
        made.push(id);
        let text = tokenizer.decode_after(before, &made)?;
        if !text.ends_with('\u{fffd}') && text.len() > shown {
            write(text.get(shown..).unwrap_or_default())?;
            shown = text.len();
        }
        Ok(())
    })?;
    let text = tokenizer.decode_after(before, &made)?;
    write(text.get(shown..).unwrap_or_default())?;
    write("\n")
}

/// All of standard input but a newline at its end. A signal ends the wait for it.
fn standard_input() -> Result<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        let _ = send.send(read.map(|_| bytes));
    });
    let bytes = loop {
        interrupt::check("no prompt was read")?;
        if let Ok(read) = receive.recv_timeout(Duration::from_millis(50)) {
            break read.map_err(Error::io("read", "standard input"))?;
        }
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::invalid("standard input", format!("not UTF-8 at byte {at}"))
            .with_hint("convert the text, for example with iconv -t UTF-8")
    })?;
    let newline = ["\r\n", "\n"].iter().find(|end| text.ends_with(**end));
    text.truncate(text.len() - newline.map_or(0, |end| end.len()));
    Ok(text)
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::io("write", "standard output"))
}
