//! Scores of models, and the table of them that `eval` and `train` print.

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::{Gpt2Config, hex, layout};
use scale_ckpt::data::{Tokenizer, Tokens};
use scale_ckpt::eval::hellaswag::{self, HellaSwagScore, Item};
use scale_ckpt::eval::loss::{TextLoss, text_loss};
use scale_ckpt::model::Gpt2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::shared::thousands;
use super::table;

/// What models are scored on: a validation text, HellaSwag items, or both.
pub struct Measures {
    /// Tokenizer of the models.
    pub tokenizer: Tokenizer,
    /// The validation text, if there is one.
    pub val: Option<Tokens>,
    /// Tokens per window of it.
    pub context: usize,
    /// Tokens of it at most.
    pub val_tokens: Option<u64>,
    /// HellaSwag items; none is no score.
    pub items: Vec<Item>,
    /// Where to compute.
    pub device: Device,
}

/// The scores of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

impl Measures {
    /// What tells these measures from others: scores of different ones are not comparable.
    pub fn identity(&self) -> String {
        let parts = (
            self.val.as_ref().map(Tokens::sha256),
            self.context,
            self.val_tokens,
            &self.items,
        );
        hex(&Sha256::digest(format!("{parts:?}")))
    }

    /// Scores a model.
    pub fn score(&self, name: String, model: &Gpt2, config: &Gpt2Config) -> Result<Row> {
        let hellaswag = match self.items.as_slice() {
            [] => None,
            items => Some(
                hellaswag::score(
                    model,
                    &self.tokenizer,
                    items,
                    config.n_positions,
                    &self.device,
                )?
                .0,
            ),
        };
        Ok(Row {
            model: name,
            n_layer: config.n_layer,
            parameters: layout::parameter_count(config),
            val: self.val_loss(model)?,
            hellaswag,
        })
    }

    /// Loss on the validation text.
    pub fn val_loss(&self, model: &Gpt2) -> Result<Option<TextLoss>> {
        self.val
            .as_ref()
            .map(|text| text_loss(model, text, self.context, self.val_tokens, &self.device))
            .transpose()
    }
}

/// The table of scores, with what is needed to read it.
pub fn render(rows: &[Row]) -> String {
    let percent = |x: f64, stderr: f64| format!("{:.2} ± {:.2}", 100.0 * x, 100.0 * stderr);
    let cells = |row: &Row| {
        let (loss, ppl) = row.val.map_or_else(
            || ("-".into(), "-".into()),
            |v| (format!("{:.4}", v.loss), format!("{:.2}", v.perplexity())),
        );
        let (acc, norm) = row.hellaswag.as_ref().map_or_else(
            || ("-".into(), "-".into()),
            |h| {
                (
                    percent(h.acc, h.acc_stderr),
                    percent(h.acc_norm, h.acc_norm_stderr),
                )
            },
        );
        let gold = row
            .hellaswag
            .as_ref()
            .map_or_else(|| "-".into(), |h| format!("{:.4}", h.gold_nll));
        vec![
            row.model.clone(),
            row.n_layer.to_string(),
            thousands(row.parameters),
            loss,
            ppl,
            acc,
            norm,
            gold,
        ]
    };
    let header = [
        "model",
        "n_layer",
        "params",
        "val loss",
        "ppl",
        "hs acc %",
        "hs acc_norm %",
        "hs gold nll",
    ];
    let right = [false, true, true, true, true, true, true, true];
    let mut text = table::render(&header, &right, &rows.iter().map(cells).collect::<Vec<_>>());
    if let Some(val) = rows.iter().find_map(|row| row.val) {
        text.push_str(&format!(
            "\n\nval: nats per token over {} tokens in windows of {}",
            thousands(val.tokens),
            val.context
        ));
    }
    if let Some(first) = rows.iter().find_map(|row| row.hellaswag.as_ref()) {
        text.push_str(&format!(
            "\nhs: HellaSwag, protocol `{}`, {} items, ± one standard error; chance is 25 %",
            first.protocol,
            thousands(first.n as u64)
        ));
        let near = |h: &HellaSwagScore| {
            (h.acc - 0.25).abs() < 2.0 * h.acc_stderr
                && (h.acc_norm - 0.25).abs() < 2.0 * h.acc_norm_stderr
        };
        if rows
            .iter()
            .filter_map(|row| row.hellaswag.as_ref())
            .all(near)
        {
            text.push_str("\n    every score is within two standard errors of chance: compare by validation loss");
        }
    }
    text
}
