//! Validation loss: mean negative log-likelihood per token over fixed windows of a text.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::data::Tokens;
use crate::error::Result;
use crate::interrupt;
use crate::model::Gpt2;
use crate::progress::{Meter, Unit};

/// Tokens per forward pass.
const PASS_TOKENS: usize = 4096;

/// Loss of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextLoss {
    /// Mean negative log-likelihood in nats per predicted token.
    pub loss: f64,
    /// Its standard error over windows, which are not independent within a document: a
    /// lower bound.
    pub stderr: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Length of the windows.
    pub context: usize,
}

impl TextLoss {
    /// e^loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Loss on windows of `context` tokens side by side from the start of the text, at most
/// `max_tokens`. The last, incomplete window is left out.
///
/// # Errors
/// The text is shorter than one window, or a signal arrived.
pub fn text_loss(
    model: &Gpt2,
    tokens: &Tokens,
    context: usize,
    max_tokens: Option<u64>,
    device: &Device,
) -> Result<TextLoss> {
    let available = tokens.windows("validation text", context)?;
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    let windows = max_tokens.map_or(available, |max| {
        available.min(usize::try_from(max).unwrap_or(usize::MAX).div_ceil(context))
    });
    let meter = Meter::new("validation", windows as u64, Unit::Count);
    let per_pass = (PASS_TOKENS / context).max(1);
    let mut losses = Vec::with_capacity(windows);
    for start in (0..windows).step_by(per_pass) {
        interrupt::check("no validation loss")?;
        let count = per_pass.min(windows - start);
        let stream = tokens.read((start * context) as u64, count * context + 1)?;
        let slice = |shift: usize| -> Tensor<2, Int> {
            let ids: Vec<i64> = stream[shift..shift + count * context]
                .iter()
                .map(|&id| i64::from(id))
                .collect();
            Tensor::from_data(TensorData::new(ids, [count, context]), device)
        };
        let nll = model.token_nll(slice(0), slice(1)); // [count, T]
        losses.extend(nll.mean_dim(1).into_data().iter::<f64>());
        meter.advance(count as u64);
    }
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Ok(TextLoss {
        loss: mean,
        stderr: (variance / n).sqrt(),
        tokens: (windows * context) as u64,
        context,
    })
}
