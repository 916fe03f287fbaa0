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
    /// Of those, only the likeliest that have this share of the probability between them, the one
    /// that reaches it included, are candidates; 1 means all.
    pub top_p: f64,
    /// Seed of the choices.
    pub seed: u64,
}

/// Continues `prompt` (at least one token) by up to `count` tokens, calling `emit` with each;
/// stops early at `stop`, if there is one.
///
/// A context that fills `n_positions` goes on from its newer half.
///
/// # Errors
/// The device failed, `emit` did, or a signal arrived.
pub fn generate(
    model: &Gpt2,
    prompt: &[u32],
    count: usize,
    stop: Option<u32>,
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
        if Some(next) == stop {
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
    let mut weights: Vec<f64> = order
        .iter()
        .map(|&i| ((f64::from(logits[i]) - max) / sampling.temperature).exp())
        .collect();
    if sampling.top_p < 1.0 {
        weights.truncate(nucleus(&weights, sampling.top_p));
    }
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (&i, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return i as u32;
        }
    }
    order[0] as u32
}

/// How many of `weights`, in falling order, are the nucleus of `top_p`: the tail whose share is at
/// most 1 - `top_p` is cut off, as `TopPLogitsWarper` of `transformers` does, and one stays.
fn nucleus(weights: &[f64], top_p: f64) -> usize {
    let may_go = (1.0 - top_p) * weights.iter().sum::<f64>();
    let mut tail = 0.0;
    let gone = weights[1..].iter().rev().take_while(|&&weight| {
        tail += weight;
        tail <= may_go
    });
    weights.len() - gone.count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        seed: 0,
    };

    /// How often each token is drawn in `times` draws.
    fn drawn(logits: &[f32], sampling: Sampling, times: usize) -> BTreeMap<u32, usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            *counts
                .entry(choose(logits, sampling, &mut rng))
                .or_default() += 1;
        }
        counts
    }

    fn tokens(counts: &BTreeMap<u32, usize>) -> Vec<u32> {
        counts.keys().copied().collect()
    }

    /// Logits of a distribution, at temperature 1.
    fn of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(choose(&[0.0, 2.0, 2.0], GREEDY, &mut rng), 1);
    }

    #[test]
    fn top_k_bounds_the_candidates() {
        let sampling = Sampling {
            temperature: 10.0,
            top_k: 2,
            ..GREEDY
        };
        let counts = drawn(&[5.0, 1.0, 4.0, 3.0], sampling, 200);
        assert_eq!(tokens(&counts), [0, 2]);
    }

    #[test]
    fn the_nucleus_is_that_of_transformers() {
        // TopPLogitsWarper on the logarithms of these: what it does not set to -inf, by number.
        let weights = [0.5, 0.25, 0.125, 0.0625, 0.0625];
        let table = [
            (1e-9, 1),
            (0.3, 1),
            (0.5, 1),
            (0.501, 2),
            (0.75, 2),
            (0.8, 3),
            (0.875, 3),
            (0.9, 4),
            (0.9375, 4),
            (0.95, 5),
            (0.999_999, 5),
        ];
        for (top_p, kept) in table {
            assert_eq!(nucleus(&weights, top_p), kept, "{top_p}");
            let scaled = weights.map(|weight| 40.0 * weight);
            assert_eq!(nucleus(&scaled, top_p), kept, "{top_p}, not normalized");
        }
        assert_eq!(nucleus(&[1.0], 0.1), 1);
        assert_eq!(nucleus(&[1.0; 8], 0.5), 4);
    }

    #[test]
    fn what_the_nucleus_holds_keeps_its_odds() {
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 0.7,
            ..GREEDY
        };
        let counts = drawn(&of(&[0.1, 0.6, 0.05, 0.2, 0.05]), sampling, 8000);
        assert_eq!(tokens(&counts), [1, 3]);
        // 0.6 of 0.8, give or take four standard deviations.
        assert!((5845..6155).contains(&counts[&1]), "{counts:?}");
    }

    #[test]
    fn temperature_comes_first_then_top_k_then_top_p() {
        let logits = of(&[0.4, 0.3, 0.2, 0.1]);
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 0.75,
            ..GREEDY
        };
        assert_eq!(tokens(&drawn(&logits, sampling, 500)), [0, 1, 2]);
        // Among two, 0.4 and 0.3 are 0.57 and 0.43, so that both are needed for 0.75; for 0.5 one is.
        let two = Sampling {
            top_k: 2,
            ..sampling
        };
        assert_eq!(tokens(&drawn(&logits, two, 500)), [0, 1]);
        let half = Sampling { top_p: 0.5, ..two };
        assert_eq!(tokens(&drawn(&logits, half, 500)), [0]);
        // At temperature 0.5 they are 16, 9, 4 and 1 of 30, and 25 of 30 are more than 0.75.
        let cold = Sampling {
            temperature: 0.5,
            ..sampling
        };
        assert_eq!(tokens(&drawn(&logits, cold, 500)), [0, 1]);
    }

    #[test]
    fn a_tiny_nucleus_is_greedy_and_a_whole_one_changes_nothing() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.9];
        let sampling = Sampling {
            temperature: 1.5,
            top_p: 1e-12,
            ..GREEDY
        };
        assert_eq!(tokens(&drawn(&logits, sampling, 100)), [1]);
        let whole = Sampling {
            top_p: 1.0,
            ..sampling
        };
        let nearly = Sampling {
            top_p: 1.0 - 1e-15,
            ..sampling
        };
        assert_eq!(drawn(&logits, whole, 300), drawn(&logits, nearly, 300));
        assert_eq!(tokens(&drawn(&logits, whole, 300)), [0, 1, 2, 3, 4]);
    }
}
