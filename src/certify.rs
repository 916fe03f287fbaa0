//! Growth certificates: what growth did to the function of a model, measured.
//!
//! Source and grown model read the same probe, one block in memory at a time, in f32 on the
//! CPU, through the very blocks that training uses. An initializer's claim of exactness is
//! checked against the result.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::layout::{LM_HEAD, WPE, WTE};
use crate::checkpoint::{Checkpoint, HostTensor, hex};
use crate::error::{Error, Result, counted};
use crate::eval::figures::{figure, signed};
use crate::growth::Claim;
use crate::interrupt;
use crate::model::weights::{from_host, load_block, load_ln_f, to_host};
use crate::progress::{Meter, Unit};

/// Largest |Δlogit| that counts as exact, relative to the largest |logit|. Added zeros change
/// nothing, and 0 is what is measured; the allowance is about 16 units in the last place of
/// f32, for plans that are exact only in real arithmetic.
pub const EXACT_LOGITS: f64 = 2e-6;

/// Largest |Δloss| in nats that counts as approximate: a fifth of what plain copies cost the
/// shipped 4-layer model when it is doubled (0.46 stacked, 0.53 interleaved).
pub const APPROXIMATE_LOSS: f64 = 0.1;

/// Most tokens a probe has.
pub const PROBE_TOKENS: usize = 128;

/// Rows of the head read at a time.
const HEAD_ROWS: usize = 4096;

/// The text that models are probed with, unless another is given.
pub const PROBE_TEXT: &str = "The harbour lay quiet in the early light, and the boats that had come in overnight rocked \
against the quay. An old man sat mending a net; beside him, a girl of nine or ten was counting the fish into baskets. \
\"Forty-one,\" she said, \"and not one of them as long as my arm.\" He laughed without looking up. In 1874, he told her, \
his father had brought home a cod that weighed more than she did, and the whole street had eaten from it for three days. \
She did not believe him, but she asked what his father had been called, and whether he had been afraid of the sea.";

/// The measured effect of a growth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// What the plan claims.
    pub claim: Claim,
    /// Whether the claim holds; none where the weights are not finite.
    pub holds: Option<bool>,
    /// Tokens of the probe.
    pub probe_tokens: usize,
    /// SHA-256 of the probe's token ids as little-endian u32.
    pub probe_sha256: String,
    /// Largest |Δlogit|.
    pub max_abs_logit_diff: f64,
    /// Largest |logit| of the source, the scale of the former.
    pub max_abs_logit: f64,
    /// Mean over positions of KL(source ‖ grown), in nats.
    pub mean_kl: f64,
    /// Loss of the source on the probe, in nats per token.
    pub source_loss: f64,
    /// Loss of the grown model.
    pub grown_loss: f64,
    /// Fraction of positions at which both predict the same token.
    pub top1_agreement: f64,
}

impl Certificate {
    /// The certificate in words, a line each.
    pub fn lines(&self) -> Vec<String> {
        let c = self;
        let verdict = match (c.claim, c.holds) {
            (_, None) => "not measurable: the weights are not finite".to_owned(),
            (_, Some(false)) if !c.grown_loss.is_finite() => {
                "the grown model computes values that are not finite".to_owned()
            }
            (Claim::None, _) => "nothing claimed".to_owned(),
            (claim, Some(true)) => format!("{claim}, as claimed"),
            (claim, Some(false)) => format!("NOT {claim}, as was claimed"),
        };
        vec![
            format!(
                "certificate: {verdict} ({})",
                counted(c.probe_tokens, "probe token", "probe tokens")
            ),
            format!(
                "  max |dlogit|  {:.3e} (logits reach {})",
                c.max_abs_logit_diff,
                figure(c.max_abs_logit, 1)
            ),
            format!("  mean KL       {:.3e} nats", c.mean_kl),
            format!(
                "  loss          {} -> {} ({})",
                figure(c.source_loss, 4),
                figure(c.grown_loss, 4),
                signed(c.grown_loss - c.source_loss, 4)
            ),
            format!("  top-1 agrees  {:.1} %", 100.0 * c.top1_agreement),
        ]
    }

    /// Fails where an exact claim was measured and does not hold, and where the grown model
    /// computes what is not finite although the source does not.
    ///
    /// # Errors
    /// As said.
    pub fn enforce(&self) -> Result<()> {
        let finite = self.grown_loss.is_finite() && self.max_abs_logit_diff.is_finite();
        if self.claim != Claim::Exact && self.holds == Some(false) && !finite {
            return Err(Error::Certificate {
                message: format!(
                    "the grown model computes values that are not finite: its loss on the probe is {}, the source's {:.4}; \
                     smaller numbers for the initializer may help",
                    self.grown_loss, self.source_loss
                ),
            });
        }
        if self.claim == Claim::Exact && self.holds == Some(false) {
            return Err(Error::Certificate {
                message: format!(
                    "exact was claimed, but logits moved by up to {:.3e} (allowed {:.3e})",
                    self.max_abs_logit_diff,
                    EXACT_LOGITS * self.max_abs_logit
                ),
            });
        }
        Ok(())
    }
}

/// Measures `grown` against `source` on the token ids of a probe, at least 2 of them.
pub fn certify(
    source: &Checkpoint,
    grown: &Checkpoint,
    claim: Claim,
    ids: &[u32],
) -> Result<Certificate> {
    let meter = Meter::new(
        "certifying",
        (source.config.n_layer + grown.config.n_layer) as u64,
        Unit::Count,
    );
    // What is claimed is claimed of f32, which GPUs round.
    let device = Device::flex();
    let before = logits(source, ids, &device, &meter)?;
    let after = logits(grown, ids, &device, &meter)?;
    Ok(compare(claim, ids, &before, &after))
}

/// Logits `[T, V]` of a checkpoint for one sequence, with one block in memory at a time.
pub fn logits(
    checkpoint: &Checkpoint,
    ids: &[u32],
    device: &Device,
    meter: &Meter,
) -> Result<HostTensor> {
    let (t, d) = (ids.len(), checkpoint.config.n_embd);
    if t > checkpoint.config.n_positions {
        return Err(Error::usage(format!(
            "{t} tokens exceed n_positions = {}",
            checkpoint.config.n_positions
        )));
    }
    let wte = checkpoint.tensor(WTE)?;
    let mut tokens = Vec::with_capacity(t * d);
    for &id in ids {
        let id = id as usize;
        tokens.extend_from_slice(wte.read_rows(id..id + 1)?.as_slice());
    }
    let tokens: Tensor<2> = Tensor::from_data(TensorData::new(tokens, [t, d]), device);
    let positions: Tensor<2> = from_host(checkpoint.tensor(WPE)?.read_rows(0..t)?, device);
    let mut x: Tensor<3> = (tokens + positions).unsqueeze(); // [1, T, D]
    for layer in 0..checkpoint.config.n_layer {
        interrupt::check("nothing was published")?;
        x = load_block(checkpoint, layer, device)?.forward(x);
        meter.advance(1);
    }
    let hidden: Tensor<2> = load_ln_f(checkpoint, device)?.forward(x).reshape([t, d]);
    let head = checkpoint.tensor(if checkpoint.config.tie_word_embeddings {
        WTE
    } else {
        LM_HEAD
    })?;
    let pieces = (0..checkpoint.config.vocab_size)
        .step_by(HEAD_ROWS)
        .map(|start| {
            let rows: Tensor<2> = from_host(
                head.read_rows(start..(start + HEAD_ROWS).min(checkpoint.config.vocab_size))?,
                device,
            );
            Ok(hidden.clone().matmul(rows.transpose())) // [T, rows]
        })
        .collect::<Result<Vec<_>>>()?;
    to_host(Tensor::cat(pieces, 1))
}

fn compare(claim: Claim, ids: &[u32], before: &HostTensor, after: &HostTensor) -> Certificate {
    let v = before.shape()[1];
    let largest = |pairs: &mut dyn Iterator<Item = f64>| {
        pairs.fold(0.0, |a: f64, b| if a.is_nan() || b <= a { a } else { b })
    };
    let max_abs_logit = largest(&mut before.as_slice().iter().map(|&a| f64::from(a.abs())));
    let max_abs_logit_diff = largest(
        &mut before
            .as_slice()
            .iter()
            .zip(after.as_slice())
            .map(|(&a, &b)| f64::from((a - b).abs())),
    );
    let rows = before
        .as_slice()
        .chunks_exact(v)
        .zip(after.as_slice().chunks_exact(v));
    let (mut kl, mut agree, mut losses) = (0.0, 0, [0.0, 0.0]);
    for (position, (a, b)) in rows.enumerate() {
        let (log_p, log_q) = (log_softmax(a), log_softmax(b));
        kl += log_p
            .iter()
            .zip(&log_q)
            .map(|(p, q)| p.exp() * (p - q))
            .sum::<f64>();
        agree += usize::from(argmax(a) == argmax(b));
        if let Some(&next) = ids.get(position + 1) {
            losses[0] -= log_p[next as usize];
            losses[1] -= log_q[next as usize];
        }
    }
    let (t, predicted) = (ids.len() as f64, (ids.len() - 1) as f64);
    let [source_loss, grown_loss] = losses.map(|loss| loss / predicted);
    // A source that is not finite proves nothing; a grown model that is not breaks any claim, and
    // is nothing that anybody wants where nothing is claimed.
    let finite = grown_loss.is_finite() && max_abs_logit_diff.is_finite();
    let measurable = max_abs_logit.is_finite() && source_loss.is_finite();
    let holds = measurable.then_some(match claim {
        Claim::None => finite,
        Claim::Approximate => finite && (grown_loss - source_loss).abs() <= APPROXIMATE_LOSS,
        Claim::Exact => finite && max_abs_logit_diff <= EXACT_LOGITS * max_abs_logit,
    });
    let probe: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Certificate {
        claim,
        holds,
        probe_tokens: ids.len(),
        probe_sha256: hex(&Sha256::digest(probe)),
        max_abs_logit_diff,
        max_abs_logit,
        // Rounding can leave a sum of zeros slightly negative; NaN stays.
        mean_kl: if kl < 0.0 { 0.0 } else { kl / t },
        source_loss,
        grown_loss,
        top1_agreement: agree as f64 / t,
    }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    row.iter()
        .map(|&x| f64::from(x - max) - total.ln())
        .collect()
}

fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_logits_certify_and_a_moved_one_does_not() {
        let a = HostTensor::new(&[2, 3], vec![0.0, 1.0, 2.0, 3.0, 1.0, 0.0]);
        let same = compare(Claim::Exact, &[0, 1], &a, &a);
        assert_eq!(
            (
                same.holds,
                same.max_abs_logit_diff,
                same.mean_kl,
                same.top1_agreement
            ),
            (Some(true), 0.0, 0.0, 1.0)
        );
        let b = HostTensor::new(&[2, 3], vec![0.0, 1.0, 2.5, 3.0, 1.0, 0.0]);
        let moved = compare(Claim::Exact, &[0, 1], &a, &b);
        assert_eq!(moved.holds, Some(false));
        assert!(moved.enforce().is_err() && moved.mean_kl > 0.0);
        assert!(compare(Claim::None, &[0, 1], &a, &b).enforce().is_ok());
    }

    #[test]
    fn weights_that_are_not_finite_prove_nothing() {
        let a = HostTensor::new(&[2, 1], vec![f32::NAN, 0.0]);
        assert_eq!(compare(Claim::Exact, &[0, 0], &a, &a).holds, None);
    }

    #[test]
    fn a_grown_model_that_is_not_finite_breaks_an_exact_claim() {
        let a = HostTensor::new(&[2, 1], vec![1.0, 0.0]);
        let b = HostTensor::new(&[2, 1], vec![f32::NAN, 0.0]);
        let broken = compare(Claim::Exact, &[0, 0], &a, &b);
        assert!(broken.holds == Some(false) && broken.mean_kl.is_nan());
        assert!(broken.enforce().is_err());
    }

    #[test]
    fn a_grown_model_that_is_not_finite_holds_nothing() {
        let a = HostTensor::new(&[2, 2], vec![1.0, 0.0, 0.5, 0.0]);
        // In the loss, and behind the last token that is predicted.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 3] {
                let mut values = a.as_slice().to_vec();
                values[at] = bad;
                let b = HostTensor::new(&[2, 2], values);
                for claim in [Claim::None, Claim::Approximate, Claim::Exact] {
                    let broken = compare(claim, &[0, 0], &a, &b);
                    assert_eq!(broken.holds, Some(false), "{claim} {bad} {at}");
                    assert!(broken.enforce().is_err(), "{claim} {bad} {at}");
                    // Such a source is not held against what is grown from it.
                    assert!(compare(claim, &[0, 0], &b, &b).enforce().is_ok());
                }
            }
        }
        assert_eq!(compare(Claim::None, &[0, 0], &a, &a).holds, Some(true));
    }
}
