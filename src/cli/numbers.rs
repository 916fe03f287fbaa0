//! Numbers on the command line, in every option alike: as recipes take them, and with the words
//! of recipes where they are none.

use std::any::TypeId;
use std::num::{NonZeroU64, NonZeroUsize};

use clap::Arg;

/// Whole numbers up to here are told apart as floats.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The command with every number read by [`whole`] or [`number`].
pub fn reading(command: clap::Command) -> clap::Command {
    command.mut_args(of_arg).mut_subcommands(reading)
}

fn of_arg(arg: Arg) -> Arg {
    let takes = arg.get_value_parser().type_id();
    let is = |id: TypeId| takes == id;
    if is(TypeId::of::<f64>()) {
        arg.value_parser(number)
    } else if is(TypeId::of::<usize>()) {
        arg.value_parser(|text: &str| whole(text, 0, |n| usize::try_from(n).ok()))
    } else if is(TypeId::of::<u64>()) {
        arg.value_parser(|text: &str| whole(text, 0, Some))
    } else if is(TypeId::of::<NonZeroUsize>()) {
        arg.value_parser(|text: &str| {
            whole(text, 1, |n| NonZeroUsize::new(usize::try_from(n).ok()?))
        })
    } else if is(TypeId::of::<NonZeroU64>()) {
        arg.value_parser(|text: &str| whole(text, 1, NonZeroU64::new))
    } else {
        arg
    }
}

/// A whole number from `first`, which may be written as `2_000` or `2e3`.
fn whole<T>(text: &str, first: u64, make: fn(u64) -> Option<T>) -> Result<T, String> {
    let plain = plain(text);
    let read = plain.parse().ok().or_else(|| {
        let number: f64 = plain.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..=MAX_WHOLE).contains(&number);
        is_whole.then_some(number as u64)
    });
    read.and_then(make).ok_or_else(|| {
        let is_larger = plain.parse().is_ok_and(|number: f64| number > MAX_WHOLE);
        let most = match is_larger {
            true => format!(" to {MAX_WHOLE}"),
            false => String::new(),
        };
        format!("expected a whole number from {first}{most}{}", as_in(text))
    })
}

/// A number.
fn number(text: &str) -> Result<f64, String> {
    plain(text)
        .parse()
        .map_err(|_| format!("expected a number{}", as_in(text)))
}

/// The text without `_` between digits.
fn plain(text: &str) -> String {
    let is_between = text.split('_').all(|part| {
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        is_digit(part.chars().last()) && is_digit(part.trim_start_matches('-').chars().next())
    });
    match is_between {
        true => text.replace('_', ""),
        false => text.to_owned(),
    }
}

/// How to write a number that was given with a unit.
fn as_in(text: &str) -> String {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let exponent = match unit.trim_start().chars().next() {
        Some('k' | 'K') => 3,
        Some('m' | 'M') => 6,
        Some('b' | 'B' | 'g' | 'G') => 9,
        Some('t' | 'T') => 12,
        Some('p' | 'P') => 15,
        _ => return String::new(),
    };
    match number.parse::<f64>() {
        Ok(_) => format!(", as in {number}e{exponent}"),
        Err(_) => String::new(),
    }
}
