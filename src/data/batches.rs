//! Which tokens a training step sees: a pure function of tokens, seed and position.
//!
//! The stream is cut into windows of `context` tokens; an epoch visits each once. Nothing is
//! remembered between calls, so a run resumes at any sample at no cost.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::order::{Order, Permutation};
use super::tokens::Tokens;
use crate::error::Result;

/// Windows over a token stream.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Tokens,
    windows: u64,
    context: usize,
    seed: u64,
    order: Order,
}

impl Batches {
    /// # Errors
    /// The stream is shorter than one window and its last target.
    pub fn new(tokens: Tokens, context: usize, seed: u64, order: Order) -> Result<Self> {
        let windows = tokens
            .windows("data", context)
            .map_err(|error| error.with_hint("give more text or a shorter context"))?;
        Ok(Self {
            tokens,
            windows,
            context,
            seed,
            order,
        })
    }

    /// Windows in an epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Inputs and targets of `count` samples from sample number `start`, each `[count, T]`.
    ///
    /// # Errors
    /// A shard cannot be read, or has an id that is none.
    pub fn get(
        &self,
        start: u64,
        count: usize,
        device: &Device,
    ) -> Result<(Tensor<2, Int>, Tensor<2, Int>)> {
        let mut inputs = Vec::with_capacity(count * self.context);
        let mut targets = Vec::with_capacity(count * self.context);
        for window in self.of_samples(start, count) {
            let ids = self
                .tokens
                .read(window * self.context as u64, self.context + 1)?;
            let ids = || ids.iter().map(|&id| i64::from(id));
            inputs.extend(ids().take(self.context));
            targets.extend(ids().skip(1));
        }
        let tensor = |ids| Tensor::from_data(TensorData::new(ids, [count, self.context]), device);
        Ok((tensor(inputs), tensor(targets)))
    }

    /// The windows behind `count` sample numbers from `start`.
    fn of_samples(&self, start: u64, count: usize) -> impl Iterator<Item = u64> {
        let windows = self.windows();
        let mut permutation: Option<(u64, Permutation)> = None;
        (start..start + count as u64).map(move |sample| {
            let (epoch, place) = (sample / windows, sample % windows);
            if self.order == Order::Contiguous {
                return place;
            }
            let known = permutation.filter(|(of, _)| *of == epoch);
            let (_, shuffle) = *permutation.insert(known.unwrap_or_else(|| {
                let data = self.tokens.sha256();
                (epoch, Permutation::new(windows, data, self.seed, epoch))
            }));
            shuffle.apply(place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(seed: u64, order: Order) -> Batches {
        Batches::new(Tokens::from_ids((0..101).collect()), 10, seed, order).unwrap()
    }

    fn windows(batches: &Batches, start: u64, count: usize) -> Vec<u64> {
        batches.of_samples(start, count).collect()
    }

    #[test]
    fn an_epoch_visits_every_window_once() {
        let b = batches(7, Order::Shuffled);
        let mut seen = windows(&b, 0, 10);
        assert_ne!(seen, windows(&b, 10, 10));
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_does_not_depend_on_what_is_asked_with_it() {
        let b = batches(7, Order::Shuffled);
        assert_eq!(windows(&b, 8, 8)[4..6], windows(&b, 12, 2));
        assert_ne!(
            windows(&b, 0, 10),
            windows(&batches(8, Order::Shuffled), 0, 10)
        );
    }

    #[test]
    fn contiguous_order_is_the_stream_itself() {
        let b = batches(7, Order::Contiguous);
        assert_eq!(windows(&b, 8, 4), [8, 9, 0, 1]);
        let (x, y) = b.get(0, 10, &Device::flex()).unwrap();
        let stream = |from: i64| (from..from + 100).collect::<Vec<_>>();
        assert_eq!(x.into_data().iter::<i64>().collect::<Vec<_>>(), stream(0));
        assert_eq!(y.into_data().iter::<i64>().collect::<Vec<_>>(), stream(1));
    }

    #[test]
    fn targets_are_the_next_tokens() {
        let b = batches(1, Order::Shuffled);
        let (x, y) = b.get(4, 2, &Device::flex()).unwrap();
        let difference = (y - x).into_data();
        assert!(difference.iter::<i64>().all(|d| d == 1));
    }

    #[test]
    fn too_little_text_is_refused() {
        let tokens = Tokens::from_ids(vec![1; 10]);
        assert!(Batches::new(tokens, 10, 0, Order::Shuffled).is_err());
    }
}
