//! Which tokens a training step sees: a pure function of tokens, seed and position.
//!
//! The stream is cut into windows of `context` tokens; an epoch visits each once, in an order
//! drawn from the seed and the epoch's number. Nothing is remembered between calls, so a run
//! resumes at any sample at no cost.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::tokens::Tokens;
use crate::error::{Error, Result};

/// Windows over a token stream.
#[derive(Clone, Debug)]
pub struct Batches {
    ids: Vec<u32>,
    context: usize,
    seed: u64,
    /// The order of the epoch last asked for.
    order: Option<(u64, Vec<u32>)>,
}

impl Batches {
    /// # Errors
    /// The stream is shorter than one window and its last target.
    pub fn new(tokens: Tokens, context: usize, seed: u64) -> Result<Self> {
        let windows = (tokens.ids.len().saturating_sub(1)) / context;
        if windows == 0 {
            return Err(Error::invalid(
                "data",
                format!(
                    "{} tokens are fewer than context + 1 = {}",
                    tokens.ids.len(),
                    context + 1
                ),
            )
            .with_hint("give more text or a shorter context"));
        }
        Ok(Self {
            ids: tokens.ids,
            context,
            seed,
            order: None,
        })
    }

    /// Windows in an epoch.
    pub fn windows(&self) -> usize {
        (self.ids.len() - 1) / self.context
    }

    /// Inputs and targets of `count` samples from sample number `start`, each `[count, T]`.
    pub fn get(
        &mut self,
        start: u64,
        count: usize,
        device: &Device,
    ) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let windows: Vec<usize> = (start..start + count as u64)
            .map(|sample| self.window(sample))
            .collect();
        let slice = |shift: usize| {
            let ids: Vec<i64> = windows
                .iter()
                .flat_map(|w| &self.ids[w * self.context + shift..(w + 1) * self.context + shift])
                .map(|&id| i64::from(id))
                .collect();
            Tensor::from_data(TensorData::new(ids, [count, self.context]), device)
        };
        (slice(0), slice(1))
    }

    /// The window behind a sample number.
    fn window(&mut self, sample: u64) -> usize {
        let windows = self.windows() as u64;
        let epoch = sample / windows;
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, shuffled(windows, self.seed, epoch)));
        }
        let (_, order) = self.order.as_ref().expect("just set");
        order[usize::try_from(sample % windows).expect("windows fit memory")] as usize
    }
}

/// A permutation of `0..count` (Fisher-Yates).
fn shuffled(count: u64, seed: u64, epoch: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<u32> = (0..u32::try_from(count).expect("fewer than 2^32 windows")).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(seed: u64) -> Batches {
        let tokens = Tokens {
            ids: (0..101).collect(),
            sha256: String::new(),
        };
        Batches::new(tokens, 10, seed).unwrap()
    }

    #[test]
    fn an_epoch_visits_every_window_once() {
        let mut b = batches(7);
        let mut seen: Vec<usize> = (0..10).map(|s| b.window(s)).collect();
        let next: Vec<usize> = (10..20).map(|s| b.window(s)).collect();
        assert_ne!(seen, next);
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_does_not_depend_on_what_was_asked_before() {
        let mut b = batches(7);
        b.window(3);
        b.window(25);
        assert_eq!(b.window(12), batches(7).window(12));
        assert!((0..10).any(|s| batches(7).window(s) != batches(8).window(s)));
    }

    #[test]
    fn targets_are_the_next_tokens() {
        let (x, y) = batches(1).get(4, 2, &Device::flex());
        let difference = (y - x).into_data();
        assert!(difference.iter::<i64>().all(|d| d == 1));
    }

    #[test]
    fn too_little_text_is_refused() {
        let tokens = Tokens {
            ids: vec![1; 10],
            sha256: String::new(),
        };
        assert!(Batches::new(tokens, 10, 0).is_err());
    }
}
