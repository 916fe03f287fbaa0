//! Drawing parameters from scratch, as `GPT2PreTrainedModel._init_weights` of `transformers`.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::HostTensor;
use super::layout::Fresh;

/// Draws one parameter from scratch. `residual_depth` is the number of blocks that the spread
/// of output projections is made for.
pub fn fresh(
    kind: Fresh,
    shape: &[usize],
    std: f64,
    residual_depth: usize,
    rng: &mut ChaCha8Rng,
) -> HostTensor {
    let residual_std = std / (2.0 * residual_depth as f64).sqrt();
    match kind {
        Fresh::Zeros => HostTensor::full(shape, 0.0),
        Fresh::Ones => HostTensor::full(shape, 1.0),
        Fresh::Normal => normal(shape, std, rng),
        Fresh::ResidualNormal => normal(shape, residual_std, rng),
    }
}

/// Independent N(0, `std`) values.
pub fn normal(shape: &[usize], std: f64, rng: &mut ChaCha8Rng) -> HostTensor {
    let draw = |_| {
        let z: f64 = StandardNormal.sample(rng);
        (z * std) as f32
    };
    HostTensor::new(shape, (0..shape.iter().product()).map(draw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn spreads_are_those_of_gpt2() {
        let spread = |kind| {
            let values = fresh(
                kind,
                &[100, 100],
                0.02,
                8,
                &mut ChaCha8Rng::seed_from_u64(1),
            );
            (values.values.mapv(|x| f64::from(x).powi(2)).mean().unwrap()).sqrt()
        };
        // 10,000 draws: the relative standard error of a spread is 1/√(2·10⁴) = 0.7 %.
        assert!((spread(Fresh::Normal) / 0.02 - 1.0).abs() < 0.03);
        assert!((spread(Fresh::ResidualNormal) / (0.02 / 4.0) - 1.0).abs() < 0.03);
    }
}
