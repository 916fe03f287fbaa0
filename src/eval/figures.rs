//! Numbers as people read them; files for programs have them bare.

use std::f64::consts::LN_10;

use crate::error::thousands;

/// What is nearer to 0 than this is the rounding of doubles.
const ROUNDING: f64 = 1e-12;
/// From here on, e-notation.
const LARGE: f64 = 1e6;

/// Whether a number is 0 but for rounding.
pub fn is_zero(value: f64) -> bool {
    value.abs() < ROUNDING
}

/// A number with so many decimals; in e-notation where it is so large that they say nothing, or
/// so small that they would show 0.
pub fn figure(value: f64, decimals: usize) -> String {
    if is_zero(value) {
        // Without the sign that a zero may have.
        return format!("{:.decimals$}", 0.0);
    }
    if value.is_finite() && value.abs() >= LARGE {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.decimals$}");
    if value.is_finite() && !text.contains(|c: char| ('1'..='9').contains(&c)) {
        return format!("{value:.1e}");
    }
    text
}

/// [`figure`] with its sign, of which 0 has none.
pub fn signed(value: f64, decimals: usize) -> String {
    let sign = if value >= ROUNDING { "+" } else { "" };
    format!("{sign}{}", figure(value, decimals))
}

/// A cost with about four digits, in e-notation where it is large.
pub fn amount(cost: f64) -> String {
    if !cost.is_finite() || cost >= LARGE {
        format!("{cost:.3e}")
    } else if cost.round() >= 1000.0 {
        thousands(cost.round() as u64)
    } else if cost.fract() == 0.0 {
        figure(cost, 0)
    } else {
        let decimals = match cost {
            100.0.. => 1,
            10.0.. => 2,
            1.0.. => 3,
            _ => 4,
        };
        figure(cost, decimals)
    }
}

/// e^`log`, also where that is more than a double holds.
pub fn exponential(log: f64, decimals: usize) -> String {
    let value = log.exp();
    if value.is_finite() || !log.is_finite() {
        return figure(value, decimals);
    }
    let tens = log / LN_10;
    // Of more, the logarithm does not hold the digits.
    if tens >= LARGE {
        return format!("e^{log:.3e}");
    }
    let digits = format!("{:.3}", 10_f64.powf(tens.fract()));
    if digits == "10.000" {
        format!("1.000e{:.0}", tens.trunc() + 1.0)
    } else {
        format!("{digits}e{:.0}", tens.trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_not_zero_and_zero_has_no_sign() {
        for (value, shown) in [
            (-2.1e-5, "-2.1e-5"),
            (4.9e-5, "+4.9e-5"),
            (1e-4, "+0.0001"),
            (-0.5, "-0.5000"),
            (0.0, "0.0000"),
            (-0.0, "0.0000"),
            // 0.3 − 0.2 − 0.1
            (-2.8e-17, "0.0000"),
            (1e-17, "0.0000"),
            (8_548_157_444_776_264.0, "+8.548e15"),
        ] {
            assert_eq!(signed(value, 4), shown);
        }
        assert_eq!(figure(2.1e-5, 4), "2.1e-5");
        assert_eq!(figure(999_999.0, 2), "999999.00");
        assert_eq!(figure(f64::NAN, 4), "NaN");
        assert_eq!(figure(f64::INFINITY, 4), "inf");
    }

    #[test]
    fn costs_are_plain_until_they_are_large() {
        for (cost, shown) in [
            (0.0, "0"),
            (0.25, "0.2500"),
            (3.611, "3.611"),
            (25.0, "25"),
            (812.34, "812.3"),
            (999.97, "1,000"),
            (3584.0, "3,584"),
            (123_456.7, "123,457"),
            (9e9, "9.000e9"),
        ] {
            assert_eq!(amount(cost), shown);
        }
    }

    #[test]
    fn powers_are_shown_beyond_what_a_double_holds() {
        // mpmath.exp(5000) = 2.96762838402e2171
        assert_eq!(exponential(5000.0, 2), "2.968e2171");
        assert_eq!(exponential(LN_10 * 400.0, 2), "1.000e400");
        assert_eq!(exponential(2.0, 2), "7.39");
        assert_eq!(exponential(8.5e15, 2), "e^8.500e15");
        assert_eq!(exponential(f64::INFINITY, 2), "inf");
        assert_eq!(exponential(f64::NAN, 2), "NaN");
    }
}
