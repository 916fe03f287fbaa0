//! HellaSwag in the *completion* protocol, that of karpathy/build-nanogpt `hellaswag.py` and of
//! the code of arXiv 2411.18700.
//!
//! The context is `ctx` as it is; the tokens are those of the context followed by those of
//! `" " + ending`, encoded apart. An ending's score is the negative log-likelihood of its
//! tokens: their sum for `acc`, their mean for `acc_norm`; the lowest wins, the first of equals.
//! Scores of this protocol and of lm-evaluation-harness differ by one to two points on the same
//! model and must not be mixed.

use std::io::{BufRead, BufReader};
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Tokenizer;
use crate::error::{Error, Result, printable};
use crate::interrupt;
use crate::model::Gpt2;
use crate::progress::{Meter, Unit};

/// Name of the protocol, printed beside every score.
pub const PROTOCOL: &str = "completion";

/// Longest line read.
const MAX_LINE: u64 = 1 << 20;
/// Tokens per forward pass, padding included.
const PASS_TOKENS: usize = 4096;

/// One question, as it stands in a file.
#[derive(Deserialize)]
struct RawItem {
    ctx: String,
    endings: Vec<String>,
    label: Value,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The context.
    pub ctx: String,
    /// Four endings.
    pub endings: Vec<String>,
    /// Index of the right one, from 0 to 3.
    pub label: usize,
}

/// The right ending of an item; files give its index as a number or as text.
fn label_index(label: &Value) -> Option<usize> {
    let index = match label {
        Value::String(text) => text.parse().ok()?,
        number => usize::try_from(number.as_u64()?).ok()?,
    };
    (index < 4).then_some(index)
}

/// Reads a jsonl file in the official form, at most `limit` items.
///
/// # Errors
/// Names file and line of the first bad item.
pub fn load(path: &Path, limit: Option<usize>) -> Result<Vec<Item>> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut reader = BufReader::new(file);
    let mut items = Vec::new();
    let mut number = 0;
    while limit.is_none_or(|limit| items.len() < limit) {
        number += 1;
        let mut line = Vec::new();
        let read = std::io::Read::take(&mut reader, MAX_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        let at = || format!("{}:{number}", path.display());
        if read as u64 > MAX_LINE {
            return Err(Error::invalid(
                at(),
                format!("the line is longer than {MAX_LINE} bytes"),
            ));
        }
        if !line.trim_ascii().is_empty() {
            items.push(parse_item(&line).map_err(|message| Error::invalid(at(), message))?);
        }
    }
    if items.is_empty() {
        return Err(Error::invalid(path.display(), "no items there"));
    }
    Ok(items)
}

fn parse_item(line: &[u8]) -> Result<Item, String> {
    let text =
        std::str::from_utf8(line).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    let item: RawItem = serde_json::from_str(text).map_err(|e| printable(&e.to_string()))?;
    if item.ctx.trim().is_empty() {
        return Err("`ctx` is empty".into());
    }
    if item.endings.len() != 4 {
        return Err(format!("expected 4 endings, found {}", item.endings.len()));
    }
    if let Some(i) = item
        .endings
        .iter()
        .position(|ending| ending.trim().is_empty())
    {
        return Err(format!("ending {i} is empty"));
    }
    let label = label_index(&item.label).ok_or_else(|| {
        format!(
            "expected a label from 0 to 3, found {}",
            printable(&item.label.to_string())
        )
    })?;
    Ok(Item {
        ctx: item.ctx,
        endings: item.endings,
        label,
    })
}

/// The score of one item: what the choices were made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Negative log-likelihood of each ending, in nats.
    pub sum_nll: [f64; 4],
    /// Tokens of each ending.
    pub tokens: [usize; 4],
    /// Index of the right ending.
    pub label: usize,
}

impl ItemScore {
    /// The ending of the lowest sum.
    pub fn choice(&self) -> usize {
        first_lowest(self.sum_nll)
    }

    /// The ending of the lowest mean.
    pub fn choice_norm(&self) -> usize {
        first_lowest(std::array::from_fn(|i| {
            self.sum_nll[i] / self.tokens[i] as f64
        }))
    }
}

fn first_lowest(values: [f64; 4]) -> usize {
    (1..4).fold(0, |best, i| if values[i] < values[best] { i } else { best })
}

/// Scores of a set of items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HellaSwagScore {
    /// Always [`PROTOCOL`].
    pub protocol: String,
    /// Number of items.
    pub n: usize,
    /// Fraction right by sum.
    pub acc: f64,
    /// Its standard error.
    pub acc_stderr: f64,
    /// Fraction right by mean.
    pub acc_norm: f64,
    /// Its standard error.
    pub acc_norm_stderr: f64,
    /// Mean over items of the right ending's mean negative log-likelihood.
    pub gold_nll: f64,
    /// Items whose context lost its left end to fit `n_positions`.
    pub truncated: usize,
}

/// Scores every item. `n_positions` bounds the length: longer contexts lose their left end.
pub fn score(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    items: &[Item],
    n_positions: usize,
    device: &Device,
) -> Result<(HellaSwagScore, Vec<ItemScore>)> {
    let mut sequences = Vec::with_capacity(4 * items.len());
    let mut truncated = 0;
    for (i, item) in items.iter().enumerate() {
        let context = tokenizer.encode(&item.ctx)?;
        let mut cut = false;
        for ending in &item.endings {
            let sequence = Sequence::new(
                i,
                &context,
                &tokenizer.encode(&format!(" {ending}"))?,
                n_positions,
            )?;
            cut |= sequence.truncated;
            sequences.push(sequence);
        }
        truncated += usize::from(cut);
    }
    let nll = sequence_nll(model, &sequences, device)?;
    let scores: Vec<ItemScore> = items
        .iter()
        .zip(sequences.chunks_exact(4).zip(nll.chunks_exact(4)))
        .map(|(item, (sequences, nll))| ItemScore {
            sum_nll: std::array::from_fn(|i| nll[i]),
            tokens: std::array::from_fn(|i| sequences[i].scored),
            label: item.label,
        })
        .collect();
    Ok((summarize(&scores, truncated), scores))
}

/// The summary of item scores.
pub fn summarize(scores: &[ItemScore], truncated: usize) -> HellaSwagScore {
    let n = scores.len();
    let fraction = |right: usize| right as f64 / n as f64;
    let acc = fraction(scores.iter().filter(|s| s.choice() == s.label).count());
    let acc_norm = fraction(scores.iter().filter(|s| s.choice_norm() == s.label).count());
    // The sample's standard deviation over √n, as lm-evaluation-harness reports it.
    let stderr = |p: f64| (p * (1.0 - p) / (n as f64 - 1.0).max(1.0)).sqrt();
    let gold_nll = scores
        .iter()
        .map(|s| s.sum_nll[s.label] / s.tokens[s.label] as f64)
        .sum::<f64>()
        / n as f64;
    HellaSwagScore {
        protocol: PROTOCOL.into(),
        n,
        acc,
        acc_stderr: stderr(acc),
        acc_norm,
        acc_norm_stderr: stderr(acc_norm),
        gold_nll,
        truncated,
    }
}

/// Tokens of one context and ending.
struct Sequence {
    ids: Vec<u32>,
    /// Tokens at the end that are scored.
    scored: usize,
    truncated: bool,
}

impl Sequence {
    fn new(item: usize, context: &[u32], ending: &[u32], n_positions: usize) -> Result<Self> {
        // The last token is predicted but never read, so one more than n_positions fits.
        let longest = n_positions + 1;
        if ending.len() >= longest {
            return Err(Error::invalid(
                format!("item {}", item + 1),
                format!(
                    "an ending has {} tokens, the model reads {n_positions}",
                    ending.len()
                ),
            ));
        }
        let mut ids = [context, ending].concat();
        let excess = ids.len().saturating_sub(longest);
        ids.drain(..excess);
        Ok(Self {
            ids,
            scored: ending.len(),
            truncated: excess > 0,
        })
    }
}

/// Negative log-likelihood of the scored tokens of every sequence. Sequences of like length go
/// together; padding stands on the right, where causal attention never sees it.
fn sequence_nll(model: &Gpt2, sequences: &[Sequence], device: &Device) -> Result<Vec<f64>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sequences[i].ids.len()));
    let meter = Meter::new("hellaswag", sequences.len() as u64, Unit::Count);
    let mut nll = vec![0.0; sequences.len()];
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        interrupt::check("no HellaSwag score")?;
        let width = sequences[longest].ids.len() - 1;
        let (batch, later) = rest.split_at((PASS_TOKENS / width).clamp(1, rest.len()));
        let column = |shift: usize| -> Tensor<2, Int> {
            let padded = batch.iter().flat_map(|&i| {
                let ids = &sequences[i].ids[shift..sequences[i].ids.len() - 1 + shift];
                ids.iter()
                    .map(|&id| i64::from(id))
                    .chain(std::iter::repeat_n(0, width - ids.len()))
            });
            Tensor::from_data(
                TensorData::new(padded.collect::<Vec<i64>>(), [batch.len(), width]),
                device,
            )
        };
        let rows: Vec<f64> = model
            .token_nll(column(0), column(1))
            .into_data()
            .iter::<f64>()
            .collect(); // [batch, width]
        for (&i, row) in batch.iter().zip(rows.chunks_exact(width)) {
            let end = sequences[i].ids.len() - 1;
            nll[i] = row[end - sequences[i].scored..end].iter().sum();
        }
        meter.advance(batch.len() as u64);
        rest = later;
    }
    Ok(nll)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> Result<Item, String> {
        parse_item(json.as_bytes())
    }

    #[test]
    fn bad_items_are_named() {
        let good = r#"{"ctx":"a","endings":["b","c","d","e"],"label":"3"}"#;
        assert_eq!(item(good).unwrap().label, 3);
        for (bad, word) in [
            (r#"{"endings":["b","c","d","e"],"label":3}"#, "ctx"),
            (
                r#"{"ctx":"a","endings":["b","c","d"],"label":1}"#,
                "4 endings",
            ),
            (
                r#"{"ctx":"a","endings":["b","c","d","e"],"label":4}"#,
                "label",
            ),
            (
                r#"{"ctx":"a","endings":["b","c","d","e"],"label":""}"#,
                "label",
            ),
            (
                r#"{"ctx":"a","endings":["b"," ","d","e"],"label":1}"#,
                "ending 1",
            ),
            ("{", "EOF"),
        ] {
            let error = item(bad).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn choices_are_lowest_sum_and_lowest_mean() {
        let score = ItemScore {
            sum_nll: [4.0, 6.0, 9.0, 4.0],
            tokens: [1, 3, 4, 1],
            label: 1,
        };
        assert_eq!((score.choice(), score.choice_norm()), (0, 1));
        let summary = summarize(&[score.clone(), score], 0);
        assert_eq!(
            (summary.acc, summary.acc_norm, summary.gold_nll),
            (0.0, 1.0, 2.0)
        );
    }

    #[test]
    fn long_contexts_lose_their_left_end() {
        let sequence = Sequence::new(0, &[1, 2, 3, 4], &[5, 6], 4).unwrap();
        assert_eq!(sequence.ids, [2, 3, 4, 5, 6]);
        assert!(sequence.truncated);
        assert!(Sequence::new(0, &[1], &[2, 3, 4, 5, 6], 4).is_err());
    }
}
