//! Sampling text, with a key/value cache.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::Result;
use crate::interrupt;
use crate::model::weights::to_host;
use crate::model::{Gpt2, KvCache};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are candidates; 0 means all.
    pub top_k: usize,
    /// Seed of the choices.
    pub seed: u64,
}

/// Continues `prompt` (at least one token) by up to `count` tokens, calling `emit` with each;
/// stops early at `stop`.
///
/// A context that fills `n_positions` goes on from its newer half.
///
/// # Errors
/// The device failed, `emit` did, or a signal arrived.
pub fn generate(
    model: &Gpt2,
    prompt: &[u32],
    count: usize,
    stop: u32,
    sampling: Sampling,
    emit: &mut dyn FnMut(u32) -> Result<()>,
) -> Result<()> {
    let n_positions = model.wpe.weight.val().dims()[0];
    let device = model.wpe.weight.val().device();
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut cache = KvCache::new(model.h.len());
    let mut context: Vec<u32> = prompt[prompt.len().saturating_sub(n_positions)..].to_vec();
    let mut fresh = context.clone();
    for _ in 0..count {
        interrupt::check("generation ended")?;
        if cache.len() + fresh.len() > n_positions {
            context.drain(..context.len() - (n_positions / 2).max(1));
            cache = KvCache::new(model.h.len());
            fresh.clone_from(&context);
        }
        let logits = last_logits(model, &fresh, &mut cache, &device)?;
        let next = choose(&logits, sampling, &mut rng);
        if next == stop {
            break;
        }
        emit(next)?;
        context.push(next);
        fresh = vec![next];
    }
    Ok(())
}

/// Logits `[V]` after the last of `ids`.
fn last_logits(
    model: &Gpt2,
    ids: &[u32],
    cache: &mut KvCache,
    device: &Device,
) -> Result<Vec<f32>> {
    let t = ids.len();
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [1, t]), device);
    let hidden = model.hidden_cached(ids, cache).slice([0..1, t - 1..t]); // [1, 1, D]
    Ok(to_host(model.head_logits(hidden))?.as_slice().to_vec())
}

fn choose(logits: &[f32], sampling: Sampling, rng: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let likelier = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    if sampling.temperature == 0.0 {
        return order.into_iter().min_by(likelier).unwrap_or(0) as u32;
    }
    if (1..order.len()).contains(&sampling.top_k) {
        order.select_nth_unstable_by(sampling.top_k - 1, likelier);
        order.truncate(sampling.top_k);
    }
    // In a fixed order, so that a seed always gives the same text.
    order.sort_unstable_by(likelier);
    let max = f64::from(logits[order[0]]);
    let weights: Vec<f64> = order
        .iter()
        .map(|&i| ((f64::from(logits[i]) - max) / sampling.temperature).exp())
        .collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (&i, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return i as u32;
        }
    }
    order[0] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let greedy = Sampling {
            temperature: 0.0,
            top_k: 0,
            seed: 0,
        };
        assert_eq!(choose(&[0.0, 2.0, 2.0], greedy, &mut rng), 1);
    }

    #[test]
    fn top_k_bounds_the_candidates() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let sampling = Sampling {
            temperature: 10.0,
            top_k: 2,
            seed: 0,
        };
        let drawn: std::collections::BTreeSet<u32> = (0..200)
            .map(|_| choose(&[5.0, 1.0, 4.0, 3.0], sampling, &mut rng))
            .collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 2]);
    }
}
