//! Python's string methods and its `random.sample`, to the letter: prompts and few-shot
//! examples are those of lm-evaluation-harness, which is written in it.

use std::collections::HashSet;

use rand_mt::Mt;

/// What `str.strip` takes for a blank.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.capitalize()`: the first character in title case, all others in lower case.
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else {
        return String::new();
    };
    // Lower case of a character can depend on those before it: all of the text is lowered.
    let lower = text.to_lowercase();
    let rest = lower.chars().skip(first.to_lowercase().count());
    title(first).chars().chain(rest).collect()
}

/// One character in title case.
fn title(c: char) -> String {
    match c {
        // Digraphs have a title form of their own.
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".into(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".into(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".into(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".into(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next();
            let rest = upper.flat_map(char::to_lowercase);
            first.into_iter().chain(rest).collect()
        }
    }
}

/// `random.Random(seed)`, as far as `sample` needs it.
#[derive(Debug)]
pub struct Random(Mt);

impl Random {
    /// The generator of an integer seed.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 {
            vec![low]
        } else {
            vec![low, high]
        };
        Self(Mt::new_with_key(key))
    }

    /// A number below `n`, which is at least 1.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let number = (self.0.next_u32() >> (32 - bits)) as usize;
            if number < n {
                return number;
            }
        }
    }

    /// `sample(range(n), k)`, for k ≤ n < 2³¹.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow(((k * 3) as f64).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let at = self.below(n - i);
                    let chosen = pool[at];
                    pool[at] = pool[n - i - 1];
                    chosen
                })
                .collect();
        }
        let mut seen = HashSet::new();
        (0..k)
            .map(|_| {
                loop {
                    let number = self.below(n);
                    if seen.insert(number) {
                        return number;
                    }
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_are_pythons() {
        // Each pair from CPython 3.11.
        for (text, wanted) in [
            ("", ""),
            ("the Man", "The man"),
            ("ßa", "Ssa"),
            ("ﬁX", "Fix"),
            ("ǆA", "ǅa"),
            ("AΣ", "Aς"),
            ("ÉA", "Éa"),
            ("İA", "İa"),
            ("1A", "1a"),
        ] {
            assert_eq!(capitalize(text), wanted, "{text}");
        }
    }

    #[test]
    fn samples_are_pythons() {
        // Two calls in a row of CPython 3.11's `random.Random(seed).sample(range(n), k)`.
        for (n, k, seed, first, second) in [
            (40, 4, 1234, vec![28, 7, 0, 5], vec![37, 2, 5, 6]),
            (
                30,
                6,
                0,
                vec![27, 12, 24, 13, 1, 8],
                vec![16, 15, 12, 25, 9, 28],
            ),
            (
                1 << 20,
                3,
                (1 << 40) + 7,
                vec![998_085, 526_058, 265_815],
                vec![786_998, 761_589, 824_557],
            ),
        ] {
            let mut random = Random::new(seed);
            assert_eq!((random.sample(n, k), random.sample(n, k)), (first, second));
        }
    }
}
