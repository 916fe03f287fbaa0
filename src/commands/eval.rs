//! `scale-ckpt eval`.

use std::path::PathBuf;

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::{Gpt2Config, layout};
use scale_ckpt::data::{Tokenizer, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::hellaswag::{self, HellaSwagScore, Item};
use scale_ckpt::eval::loss::{TextLoss, text_loss};
use scale_ckpt::model::Gpt2;
use serde::Serialize;
use serde_json::json;

use super::shared::{load_model, open, print, print_json, thousands, tokenizer};
use super::table;

/// Score checkpoints: validation loss on a text, HellaSwag (completion protocol).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoints.
    #[arg(required = true)]
    checkpoints: Vec<String>,
    /// Text files for the validation loss.
    #[arg(long, value_name = "FILE")]
    val: Vec<PathBuf>,
    /// At most so many validation tokens.
    #[arg(long, value_name = "N")]
    val_tokens: Option<u64>,
    /// Tokens per window of the validation loss; n_positions unless given.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// A HellaSwag file in the official jsonl form.
    #[arg(long, value_name = "FILE")]
    hellaswag: Option<PathBuf>,
    /// At most so many HellaSwag items, from the start.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
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
            return Err(Error::usage("nothing to score on").with_hint("give --val FILE, --hellaswag FILE, or both"));
        }
        let device = self.device.open()?;
        let items = self.hellaswag.as_ref().map(|path| hellaswag::load(path, self.limit)).transpose()?.unwrap_or_default();
        let mut rows = Vec::new();
        for source in &self.checkpoints {
            let checkpoint = open(source)?;
            let tokenizer = tokenizer(&checkpoint)?;
            let tokens = if self.val.is_empty() { None } else { Some(Tokens::from_files(&self.val, &tokenizer)?) };
            let context = self.context.unwrap_or(checkpoint.config.n_positions);
            if context == 0 || context > checkpoint.config.n_positions {
                return Err(Error::usage(format!("--context {context}: the model reads 1 to {} tokens", checkpoint.config.n_positions)));
            }
            let subject = Subject { model: &load_model(&checkpoint, &device)?, config: &checkpoint.config, tokenizer: &tokenizer, device: &device };
            rows.push(subject.score(source.clone(), tokens.as_ref(), context, self.val_tokens, &items)?);
        }
        if self.json {
            return print_json(&json!({ "schema": 1, "device": self.device.to_string(), "models": rows }));
        }
        print(&render(&rows))
    }
}

/// Something to be scored.
pub struct Subject<'a> {
    pub model: &'a Gpt2,
    pub config: &'a Gpt2Config,
    pub tokenizer: &'a Tokenizer,
    pub device: &'a Device,
}

/// The scores of one model.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What the model is called.
    pub model: String,
    /// Blocks.
    pub n_layer: usize,
    /// Parameters.
    pub parameters: u64,
    /// Loss on the validation text.
    pub val: Option<TextLoss>,
    /// HellaSwag.
    pub hellaswag: Option<HellaSwagScore>,
}

impl Subject<'_> {
    /// Scores on whatever is given.
    pub fn score(&self, name: String, tokens: Option<&Tokens>, context: usize, max_tokens: Option<u64>, items: &[Item]) -> Result<Row> {
        let val = tokens.map(|tokens| text_loss(self.model, tokens, context, max_tokens, self.device)).transpose()?;
        let hellaswag = match items {
            [] => None,
            items => Some(hellaswag::score(self.model, self.tokenizer, items, self.config.n_positions, self.device)?.0),
        };
        Ok(Row { model: name, n_layer: self.config.n_layer, parameters: layout::parameter_count(self.config), val, hellaswag })
    }
}

/// The table of scores, with what is needed to read it.
pub fn render(rows: &[Row]) -> String {
    let percent = |x: f64, stderr: f64| format!("{:.2} ± {:.2}", 100.0 * x, 100.0 * stderr);
    let cells = |row: &Row| {
        let (loss, ppl) = row.val.map_or_else(|| ("-".into(), "-".into()), |v| (format!("{:.4}", v.loss), format!("{:.2}", v.perplexity())));
        let (acc, norm) = row.hellaswag.as_ref().map_or_else(|| ("-".into(), "-".into()), |h| (percent(h.acc, h.acc_stderr), percent(h.acc_norm, h.acc_norm_stderr)));
        let gold = row.hellaswag.as_ref().map_or_else(|| "-".into(), |h| format!("{:.4}", h.gold_nll));
        vec![row.model.clone(), row.n_layer.to_string(), thousands(row.parameters), loss, ppl, acc, norm, gold]
    };
    let header = ["model", "n_layer", "params", "val loss", "ppl", "hs acc %", "hs acc_norm %", "hs gold nll"];
    let right = [false, true, true, true, true, true, true, true];
    let mut text = table::render(&header, &right, &rows.iter().map(cells).collect::<Vec<_>>());
    if let Some(val) = rows.iter().find_map(|row| row.val) {
        text.push_str(&format!("\n\nval: nats per token over {} tokens in windows of {}", thousands(val.tokens), val.context));
    }
    if let Some(first) = rows.iter().find_map(|row| row.hellaswag.as_ref()) {
        text.push_str(&format!("\nhs: HellaSwag, protocol `{}`, {} items, ± one standard error; chance is 25 %", first.protocol, thousands(first.n as u64)));
        let near = |h: &HellaSwagScore| (h.acc - 0.25).abs() < 2.0 * h.acc_stderr && (h.acc_norm - 0.25).abs() < 2.0 * h.acc_norm_stderr;
        if rows.iter().filter_map(|row| row.hellaswag.as_ref()).all(near) {
            text.push_str("\n    every score is within two standard errors of chance: compare by validation loss");
        }
    }
    text
}
