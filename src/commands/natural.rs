//! The order of checkpoints and runs in a listing: numbers in their names count as numbers.

use std::cmp::Ordering;
use std::path::{Component, Path};

/// Fewest names that are taken for what a shell made of a glob: nobody types as many in that
/// order.
const LISTED: usize = 3;

/// Compares paths part by part, with `step-500` before `step-20000`.
pub fn order(a: &Path, b: &Path) -> Ordering {
    let parts = |path: &Path| -> Vec<String> {
        let parts = path.components().filter(|part| *part != Component::CurDir);
        parts
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let (parts_a, parts_b) = (parts(a), parts(b));
    let different = parts_a.iter().zip(&parts_b).map(|(a, b)| of_names(a, b));
    different
        .into_iter()
        .find(|order| order.is_ne())
        .unwrap_or_else(|| parts_a.len().cmp(&parts_b.len()))
        .then_with(|| a.cmp(b))
}

/// Puts names that a shell listed in natural order: neighbours that differ in nothing but numbers
/// and stand in the order of their letters. Others stay where they are.
pub fn relist(names: &mut [String]) {
    for group in names.chunk_by_mut(|a, b| without_numbers(a) == without_numbers(b)) {
        if group.len() >= LISTED && group.is_sorted() {
            group.sort_by(|a, b| order(Path::new(a), Path::new(b)));
        }
    }
}

fn without_numbers(name: &str) -> Vec<&str> {
    chunks(name)
        .into_iter()
        .filter(|chunk| !is_number(chunk))
        .collect()
}

/// The name in pieces, each of digits alone or of none.
fn chunks(name: &str) -> Vec<&str> {
    let bytes = name.as_bytes();
    let starts = (0..bytes.len())
        .filter(|&i| i == 0 || bytes[i - 1].is_ascii_digit() != bytes[i].is_ascii_digit());
    let mut ends: Vec<usize> = starts.collect();
    ends.push(bytes.len());
    // An ASCII digit on one side of every cut: none is within a character.
    ends.windows(2)
        .map(|pair| &name[pair[0]..pair[1]])
        .collect()
}

fn is_number(chunk: &str) -> bool {
    chunk.starts_with(|c: char| c.is_ascii_digit())
}

fn of_names(a: &str, b: &str) -> Ordering {
    let (chunks_a, chunks_b) = (chunks(a), chunks(b));
    let mut after_point = false;
    for (a, b) in chunks_a.iter().zip(&chunks_b) {
        let order = match (is_number(a), is_number(b)) {
            // Decimals, as in `lr-0.0003` and `lr-0.001`.
            (true, true) if after_point && (a.starts_with('0') || b.starts_with('0')) => a.cmp(b),
            (true, true) => value(a).cmp(&value(b)),
            _ => a.cmp(b),
        };
        if order.is_ne() {
            return order;
        }
        after_point = *a == ".";
    }
    chunks_a.len().cmp(&chunks_b.len())
}

/// A number of any length in a form that compares: how many digits, and which.
fn value(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn sorted(names: &[&str]) {
        for shift in 0..names.len() {
            let mut mixed = names.to_vec();
            mixed.rotate_left(shift);
            mixed.sort_by(|a, b| order(Path::new(a), Path::new(b)));
            assert_eq!(mixed, names);
        }
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        sorted(&["500", "1000", "1500", "20000"]);
        sorted(&[
            "./step-500",
            "./step-1000",
            "./step-20000",
            "./step-20000-best",
        ]);
        sorted(&[
            "run2/step-00500",
            "run2/step-1000",
            "run10/step-1",
            "run10/step-2",
        ]);
        sorted(&["a/step-9", "a-2/step-1", "b9c2", "b9c10", "b10c1"]);
        sorted(&[
            "lr-0.0003/s1",
            "lr-0.001/s1",
            "lr-0.01/s1",
            "lr-0.1/s1",
            "lr-1.5/s1",
        ]);
        sorted(&["v1.9", "v1.10"]);
        sorted(&[
            "n-99999999999999999999998",
            "n-99999999999999999999999",
            "n-100000000000000000000000",
        ]);
        sorted(&["é1", "é2", "é10"]);
        sorted(&["step-7", "step-007x"]);
    }

    #[test]
    fn what_a_shell_listed_is_put_in_order_and_what_was_typed_is_not() {
        let listed = |names: &[&str]| {
            let mut names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            relist(&mut names);
            names.join(" ")
        };
        assert_eq!(
            listed(&["gpt2", "s-1000", "s-1500", "s-20000", "s-500"]),
            "gpt2 s-500 s-1000 s-1500 s-20000"
        );
        // Two, or in an order of their own.
        assert_eq!(listed(&["s-1000", "s-500"]), "s-1000 s-500");
        assert_eq!(
            listed(&["s-20000", "s-1000", "s-500"]),
            "s-20000 s-1000 s-500"
        );
        assert_eq!(
            listed(&["a/s-10", "a/s-100", "a/s-20", "b/s-10", "b/s-9"]),
            "a/s-10 a/s-20 a/s-100 b/s-10 b/s-9"
        );
    }
}
