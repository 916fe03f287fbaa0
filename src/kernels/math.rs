//! Scalar functions that the compiler turns into vector code, and the loops over them.
//!
//! `f32::exp` calls the C library once per element. The polynomial here has no branches and no
//! calls, so a loop over it runs eight or sixteen elements at a time on the instruction set
//! that [`vectorized`] finds at run time.

use rayon::prelude::*;

/// Elements per task: large enough to hide the cost of a task, small enough to stay in cache.
pub const TASK: usize = 1 << 14;

/// Runs `work` compiled for the best instruction set of this processor.
#[inline(always)]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// eˣ within 2 units in the last place, clamped to the normal range; NaN stays NaN.
///
/// x = k·ln 2 + r with |r| ≤ ½ ln 2; eʳ by the polynomial of Cephes `expf`, 2ᵏ by its bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: k times the first is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = 2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = x - k * LN_2_HIGH + k * LN_2_LOW;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 1.666_666_5e-1)
        * r
        + 0.5;
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

/// √(2/π) and the cubic coefficient of the tanh approximation of GELU.
const ROOT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// tanh-GELU. ½(1 + tanh u) is the logistic function of 2u, which needs one `exp`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * gelu_gate(x)
}

/// d gelu / dx.
#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    let gate = gelu_gate(x);
    let inner_slope = 2.0 * ROOT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
    gate + x * gate * (1.0 - gate) * inner_slope
}

#[inline(always)]
fn gelu_gate(x: f32) -> f32 {
    let u = ROOT_2_OVER_PI * (x + CUBIC * x * x * x);
    1.0 / (1.0 + exp(-2.0 * u))
}

/// Independent partial sums, so that a sum vectorises; the order is fixed, so it is
/// reproducible.
const LANES: usize = 16;

/// Σ f(x, y) over two slices of equal length.
#[inline(always)]
pub fn sum2(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_chunks, y_chunks) = (xs.chunks_exact(LANES), ys.chunks_exact(LANES));
    let rest = x_chunks
        .remainder()
        .iter()
        .zip(y_chunks.remainder())
        .map(|(&x, &y)| f(x, y))
        .sum::<f32>();
    for (x, y) in x_chunks.zip(y_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Σ f(x).
#[inline(always)]
pub fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(xs, xs, |x, _| f(x))
}

/// The largest element; NaN if there is one, −∞ of nothing.
#[inline(always)]
pub fn max(xs: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, larger);
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    lanes.into_iter().fold(rest, larger)
}

/// `out[i] = f(x[i])` on all cores.
pub fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .for_each(|(out, x)| {
            vectorized(|| out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x)));
        });
    out
}

/// `out[i] = f(x[i], y[i])` on all cores.
pub fn map2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .zip(y.par_chunks(TASK))
        .for_each(|((out, x), y)| {
            vectorized(|| {
                out.iter_mut()
                    .zip(x)
                    .zip(y)
                    .for_each(|((out, &x), &y)| *out = f(x, y))
            });
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1e-37);
    }

    #[test]
    fn gelu_matches_the_formula_and_its_slope_the_difference() {
        let formula = |x: f64| {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        };
        for i in -1000..1000 {
            let x = i as f32 * 0.01;
            assert!(
                (f64::from(gelu(x)) - formula(f64::from(x))).abs()
                    < 1e-6 * (1.0 + f64::from(x).abs())
            );
            let h = 1e-4;
            let difference = (formula(f64::from(x) + h) - formula(f64::from(x) - h)) / (2.0 * h);
            assert!(
                (f64::from(gelu_slope(x)) - difference).abs() < 1e-5,
                "at {x}"
            );
        }
    }

    #[test]
    fn sums_and_maxima_cover_the_remainder() {
        let xs: Vec<f32> = (1..=37).map(|i| i as f32).collect();
        assert_eq!(sum(&xs, |x| x), 703.0);
        assert_eq!(max(&xs), 37.0);
        assert!(max(&[1.0, f32::NAN, 2.0]).is_nan());
    }
}
