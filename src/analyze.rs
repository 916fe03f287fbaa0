//! What each block of a model does, measured on a text.
//!
//! Cosines say how much a block turns the residual stream; they are a poor proxy for what it is
//! worth (arXiv 2605.14075), so every block is also skipped, and run twice, and the change of the
//! loss measured on the same windows.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;

use crate::data::Tokens;
use crate::device::{read, read_scalar};
use crate::error::Result;
use crate::eval::figures::figure;
use crate::eval::score::mean_and_stderr;
use crate::interrupt;
use crate::kernels;
use crate::model::Gpt2;
use crate::progress::{Meter, Unit};

/// A mean over windows and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// s / √n over the windows; none of a single one.
    pub stderr: Option<f64>,
}

impl Estimate {
    fn of(values: &[f64]) -> Self {
        let (mean, stderr) = mean_and_stderr(values);
        Self { mean, stderr }
    }

    /// The standard error behind the mean, with four digits; nothing where there is none.
    pub fn plus_minus(&self) -> String {
        let stderr = self.stderr;
        stderr.map_or_else(String::new, |stderr| format!(" ± {}", figure(stderr, 4)))
    }
}

/// What one block does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockReport {
    /// Its number, from 0.
    pub layer: usize,
    /// Root mean square of the residual stream before it.
    pub rms_in: f64,
    /// Root mean square of what it adds.
    pub rms_update: f64,
    /// 1 − mean cosine of the stream before and after it (ShortGPT, arXiv 2403.03853).
    pub influence: f64,
    /// Change of the loss when it is skipped, in nats per token.
    pub skipped: Estimate,
    /// Change of the loss when it is run twice.
    pub twice: Estimate,
}

/// What the blocks of a model do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// Loss of the model as it is, in nats per token.
    pub loss: Estimate,
    /// Tokens read.
    pub tokens: u64,
    /// Tokens per window.
    pub context: usize,
    /// Block by block.
    pub blocks: Vec<BlockReport>,
    /// Mean angle, in units of π, between the stream before block `l` and before block `m` (at
    /// `n_layer`: after the last): `angular[l][m − l − 1]` (arXiv 2403.17887).
    pub angular: Vec<Vec<f64>>,
}

/// Analyses a model on `windows` windows of `context` tokens from the start of a text.
///
/// # Errors
/// The text is shorter than one window, the device failed, or a signal arrived.
pub fn analyze(
    model: &Gpt2,
    text: &Tokens,
    context: usize,
    windows: usize,
    device: &Device,
) -> Result<Analysis> {
    let available = text.windows("the text", context)?;
    let windows = windows.min(usize::try_from(available).unwrap_or(usize::MAX));
    let n = model.h.len();
    let meter = Meter::new("analyze", windows as u64, Unit::Count);
    let mut sums = Sums::new(n);
    for window in 0..windows {
        interrupt::check("nothing was written")?;
        let ids = text.read((window * context) as u64, context + 1)?;
        sums.add(model, &ids, device)?;
        meter.advance(1);
    }
    Ok(sums.finish(windows, context))
}

/// Sums over windows.
struct Sums {
    losses: Vec<f64>,
    skipped: Vec<Vec<f64>>,
    twice: Vec<Vec<f64>>,
    square_in: Vec<f64>,
    square_update: Vec<f64>,
    /// Mean cosines and angles of the stream before `l` and before `l + 1 + i`.
    cosine: Vec<f64>,
    angle: Vec<Vec<f64>>,
}

impl Sums {
    fn new(n: usize) -> Self {
        Self {
            losses: Vec::new(),
            skipped: vec![Vec::new(); n],
            twice: vec![Vec::new(); n],
            square_in: vec![0.0; n],
            square_update: vec![0.0; n],
            cosine: vec![0.0; n],
            angle: (0..n).map(|l| vec![0.0; n - l]).collect(),
        }
    }

    fn add(&mut self, model: &Gpt2, ids: &[u32], device: &Device) -> Result<()> {
        let t = ids.len() - 1;
        let row = |shift: usize| -> Tensor<2, Int> {
            let ids: Vec<i64> = ids[shift..shift + t].iter().map(|&id| id.into()).collect();
            Tensor::from_data(TensorData::new(ids, [1, t]), device)
        };
        let targets = row(1).reshape([t]);
        let loss = |x: Tensor<3>| {
            let hidden: Tensor<2> = model.ln_f.forward(x).squeeze_dim(0); // [T, D]
            let nll = kernels::token_nll(hidden, model.head(), targets.clone());
            read_scalar(nll.mean())
        };
        let rest = |x: Tensor<3>, from: usize| {
            let blocks = model.h[from..].iter();
            blocks.fold(x, |x, block| block.forward(x))
        };
        // The stream before every block, and after the last.
        let mut stream = vec![model.embed(row(0), 0)]; // [1, T, D] each
        for block in &model.h {
            let last = stream.last().expect("the embedding").clone();
            stream.push(block.forward(last));
        }
        let plain = loss(stream[model.h.len()].clone())?;
        self.losses.push(plain);
        for (l, block) in model.h.iter().enumerate() {
            let (before, after) = (stream[l].clone(), stream[l + 1].clone());
            self.skipped[l].push(loss(rest(before.clone(), l + 1))? - plain);
            self.twice[l].push(loss(rest(block.forward(after.clone()), l + 1))? - plain);
            let mean_square = |x: Tensor<3>| read_scalar(x.clone().mul(x).mean());
            self.square_in[l] += mean_square(before.clone())?;
            self.square_update[l] += mean_square(after - before)?;
        }
        self.add_angles(&stream)
    }

    fn add_angles(&mut self, stream: &[Tensor<3>]) -> Result<()> {
        let unit = |x: &Tensor<3>| {
            let norm = x.clone().mul(x.clone()).sum_dim(2).sqrt(); // [1, T, 1]
            x.clone() / norm.clamp_min(f32::MIN_POSITIVE)
        };
        let unit: Vec<Tensor<3>> = stream.iter().map(unit).collect();
        for (l, angles) in self.angle.iter_mut().enumerate() {
            for (i, sum) in angles.iter_mut().enumerate() {
                let cosines = (unit[l].clone() * unit[l + 1 + i].clone()).sum_dim(2);
                let cosines: Vec<f64> = read(cosines)?.iter::<f64>().collect();
                let t = cosines.len() as f64;
                let angle = |c: &f64| c.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
                *sum += cosines.iter().map(angle).sum::<f64>() / t;
                if i == 0 {
                    self.cosine[l] += cosines.iter().sum::<f64>() / t;
                }
            }
        }
        Ok(())
    }

    fn finish(self, windows: usize, context: usize) -> Analysis {
        let count = windows as f64;
        let block = |layer: usize| BlockReport {
            layer,
            rms_in: (self.square_in[layer] / count).sqrt(),
            rms_update: (self.square_update[layer] / count).sqrt(),
            influence: 1.0 - self.cosine[layer] / count,
            skipped: Estimate::of(&self.skipped[layer]),
            twice: Estimate::of(&self.twice[layer]),
        };
        let angles = |row: &Vec<f64>| row.iter().map(|sum| sum / count).collect();
        Analysis {
            loss: Estimate::of(&self.losses),
            tokens: (windows * context) as u64,
            context,
            blocks: (0..self.cosine.len()).map(block).collect(),
            angular: self.angle.iter().map(angles).collect(),
        }
    }
}
