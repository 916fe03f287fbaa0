//! In which order the windows of an epoch are visited.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `[data] order` of a recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Another permutation each epoch.
    #[default]
    Shuffled,
    /// One after the other, as build-nanogpt reads a shard. It drops what is left of a shard at
    /// its end; here windows and batches go on into the next.
    Contiguous,
}

/// Rounds of the network; four make a permutation that passes for random, two are to spare.
const ROUNDS: usize = 6;

/// A permutation of `0..count` that needs no table: a Feistel network over the next power of
/// four, walked along its cycles until it is below `count`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation that data, seed and epoch determine.
    pub fn new(count: u64, data_sha256: &str, seed: u64, epoch: u64) -> Self {
        let key = Sha256::new()
            .chain_update(data_sha256)
            .chain_update(seed.to_le_bytes())
            .chain_update(epoch.to_le_bytes())
            .finalize();
        let mut rng = ChaCha8Rng::from_seed(key.into());
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// Where `index` goes. On average, less than four rounds through the network.
    pub fn apply(&self, index: u64) -> u64 {
        let mut at = self.step(index);
        while at >= self.count {
            at = self.step(at);
        }
        at
    }

    fn step(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of `x`.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_occurs_once() {
        for count in [1, 2, 3, 4, 5, 10, 16, 17, 1000, 4096, 4097] {
            let order = Permutation::new(count, "data", 7, 0);
            let mut seen: Vec<u64> = (0..count).map(|i| order.apply(i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn data_seed_and_epoch_each_change_it() {
        let of = |data, seed, epoch| {
            let order = Permutation::new(1000, data, seed, epoch);
            (0..1000).map(|i| order.apply(i)).collect::<Vec<_>>()
        };
        let first = of("a", 1, 0);
        assert_eq!(first, of("a", 1, 0));
        for other in [of("b", 1, 0), of("a", 2, 0), of("a", 1, 1)] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 20, "{same} of 1000 stay");
        }
    }

    #[test]
    fn neighbours_are_torn_apart() {
        let order = Permutation::new(100_000, "a", 1, 0);
        let far = |i: u64| order.apply(i).abs_diff(order.apply(i + 1));
        let mean = (0..99_999).map(far).sum::<u64>() as f64 / 99_999.0;
        // A third of the range, if positions were drawn.
        assert!((mean / 100_000.0 - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }
}
