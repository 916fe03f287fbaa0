//! The published depth-growth methods, as plans.
//!
//! Each is a layer map and an initializer, with its source. Maps were read in the authors'
//! code where a file is named. What a method does in training (which blocks train, at which
//! learning rate) is a recipe's matter, not a plan's.

use super::init::{Initializer, Interpolate};
use super::plan::{GrowthPlan, Placement, Slot, repeat_block};
use crate::error::{Error, Result, did_you_mean};

/// A published method.
pub struct Method {
    /// Name for `--method`.
    pub name: &'static str,
    /// The layer map in one line.
    pub summary: &'static str,
    /// Paper and code.
    pub source: &'static str,
    map: fn(usize, usize) -> Result<Vec<usize>>,
    init: fn() -> Initializer,
}

impl Method {
    /// The plan from `n` to `to` blocks.
    ///
    /// # Errors
    /// The method does not reach that depth; the message says which ones it reaches.
    pub fn plan(&self, n: usize, to: usize) -> Result<GrowthPlan> {
        let map = (self.map)(n, to)?;
        debug_assert_eq!(map.len(), to, "{}", self.name);
        let init = (self.init)();
        if !matches!(init, Initializer::Interpolate(_)) {
            return GrowthPlan::from_map(n, &map, &init);
        }
        // There is nothing to average with above the last block, which is copied.
        let copies = GrowthPlan::from_map(n, &map, &Initializer::COPY)?;
        let top = copies.slots.iter().rposition(Slot::is_kept).unwrap_or(0);
        let mut slots = copies.slots;
        for slot in slots[..top].iter_mut().filter(|slot| !slot.is_kept()) {
            slot.init = Some(init.clone());
        }
        GrowthPlan::new(n, slots)
    }

    /// The method of that name.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        METHODS
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| {
                let best = did_you_mean(name, METHODS.iter().map(|method| method.name));
                let hint = best.map_or_else(
                    || "`scale-ckpt methods` lists what there is".to_owned(),
                    |best| format!("did you mean `{best}`?"),
                );
                Error::usage(format!(
                    "there is no method `{}`",
                    crate::error::printable(name)
                ))
                .with_hint(hint)
            })
    }
}

fn copy() -> Initializer {
    Initializer::COPY
}

fn zero() -> Initializer {
    Initializer::ZERO_RESIDUAL
}

/// Every method, in the order of `scale-ckpt methods`.
pub const METHODS: [Method; 11] = [
    Method {
        name: "g-stack",
        summary: "the stack g times: s(j) = j mod n, N = g*n; copy",
        source: "arXiv 2405.15319; tongxuluo/prts stackingpt.py",
        map: |n, to| whole_multiple("g-stack", n, to).map(|()| Placement::Stack.layer_map(n, to)),
        init: copy,
    },
    Method {
        name: "stackbert",
        summary: "doubling: s(j) = j mod n, N = 2n; copy",
        source: "Gong et al., ICML 2019; gonglinyuan/StackingBERT double.py",
        map: |n, to| {
            reaches("stackbert", to == 2 * n, format!("N = {}", 2 * n))
                .map(|()| Placement::Stack.layer_map(n, to))
        },
        init: copy,
    },
    Method {
        name: "gradual",
        summary: "the last k blocks appended, k = N-n <= n; copy (gradual stacking; the map of MSLT)",
        source: "tongxuluo/prts gradual_stack.py; MSLT arXiv 2011.13635",
        map: |n, to| at_most_double("gradual", n, to).map(|()| Placement::Top.layer_map(n, to)),
        init: copy,
    },
    Method {
        name: "midas",
        summary: "n/k blocks of k = N-n layers, the middle one twice; copy",
        source: "arXiv 2409.19044, whose code is not public; of an even number, the lower middle",
        map: midas,
        init: copy,
    },
    Method {
        name: "solar",
        summary: "[0, n-m) then [m, n), N = 2(n-m); copy (depth up-scaling)",
        source: "arXiv 2312.15166; tongxuluo/prts solar.py",
        map: solar,
        init: copy,
    },
    Method {
        name: "yi",
        summary: "the k = N-n layers from 3/4 of the way to the last ones, twice (32 to 48: 12..28); copy",
        source: "Yi-9B, 01-ai.github.io/blog/dive-deeper-into-yi-9b; other depths in proportion",
        map: yi,
        init: copy,
    },
    Method {
        name: "llama-pro",
        summary: "after every n/k-th block its zero-residual copy, k = N-n divides n",
        source: "arXiv 2401.02415; TencentARC/LLaMA-Pro scripts/block_expansion.py",
        map: llama_pro,
        init: zero,
    },
    Method {
        name: "interposition",
        summary: "every block g times in place: s(j) = floor(j/g), N = g*n; copy (also bert2bert's second map)",
        source: "arXiv 2510.08008; bert2BERT arXiv 2110.07143",
        map: |n, to| {
            whole_multiple("interposition", n, to).map(|()| (0..to).map(|j| j / (to / n)).collect())
        },
        init: copy,
    },
    Method {
        name: "gopher",
        summary: "s(j) = floor((j+1/2)n/N), any N; copy (round(jn/N), as in ModernBERT's code, overruns the source from 2n on)",
        source: "AnswerDotAI/ModernBERT model.py, \"Gopher scaling\"",
        map: |n, to| Ok(Placement::Interleave.layer_map(n, to)),
        init: copy,
    },
    Method {
        name: "average",
        summary: "between neighbours their average, spread evenly; above the last block its copy",
        source: "the averaging arm of voalmciaf/OpT-DeUS",
        map: |n, to| Ok(Placement::Interleave.layer_map(n, to)),
        init: || Initializer::Interpolate(Interpolate::default()),
    },
    Method {
        name: "on-top",
        summary: "random blocks after the last, as each stage of incremental layer-wise training does",
        source: "arXiv 2411.18700, main.py",
        map: |n, to| Ok(Placement::Top.layer_map(n, to)),
        init: || Initializer::Random(super::init::Random::default()),
    },
];

fn reaches(method: &str, ok: bool, depths: String) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::usage(format!(
        "method {method} does not reach this depth; it needs {depths}"
    ))
    .with_hint("any depth is reached with a placement and an initializer, or with a plan file"))
}

fn whole_multiple(method: &str, n: usize, to: usize) -> Result<()> {
    reaches(method, to.is_multiple_of(n), format!("a multiple of {n}"))
}

fn at_most_double(method: &str, n: usize, to: usize) -> Result<()> {
    reaches(
        method,
        to <= 2 * n,
        format!("N from {} to {}", n + 1, 2 * n),
    )
}

fn midas(n: usize, to: usize) -> Result<Vec<usize>> {
    let k = to - n;
    reaches(
        "midas",
        k <= n && n.is_multiple_of(k),
        format!("N - {n} to divide {n}"),
    )?;
    let middle = (n / k - 1) / 2;
    Ok(repeat_block(n, middle * k..(middle + 1) * k, k))
}

fn solar(n: usize, to: usize) -> Result<Vec<usize>> {
    reaches(
        "solar",
        to.is_multiple_of(2) && to <= 2 * n,
        format!("an even N from {} to {}", n + 1, 2 * n),
    )?;
    let m = n - to / 2;
    Ok((0..n - m).chain(m..n).collect())
}

fn yi(n: usize, to: usize) -> Result<Vec<usize>> {
    at_most_double("yi", n, to)?;
    let k = to - n;
    let start = (n - k) * 3 / 4;
    Ok(repeat_block(n, start..start + k, k))
}

fn llama_pro(n: usize, to: usize) -> Result<Vec<usize>> {
    let k = to - n;
    reaches(
        "llama-pro",
        k <= n && n.is_multiple_of(k),
        format!("N - {n} to divide {n}"),
    )?;
    let split = n / k;
    Ok((0..n)
        .flat_map(|i| std::iter::repeat_n(i, 1 + usize::from((i + 1) % split == 0)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, n: usize, to: usize) -> Vec<usize> {
        Method::by_name(name)
            .unwrap()
            .plan(n, to)
            .unwrap()
            .layer_map()
    }

    #[test]
    fn every_map_is_the_formula_of_its_source() {
        assert_eq!(map("g-stack", 3, 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(map("stackbert", 3, 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(map("gradual", 6, 8), [0, 1, 2, 3, 4, 5, 4, 5]);
        assert_eq!(map("midas", 6, 8), [0, 1, 2, 3, 2, 3, 4, 5]);
        let solar: Vec<usize> = (0..24).chain(8..32).collect();
        assert_eq!(map("solar", 32, 48), solar);
        let yi: Vec<usize> = (0..28).chain(12..28).chain(28..32).collect();
        assert_eq!(map("yi", 32, 48), yi);
        assert_eq!(map("interposition", 3, 6), [0, 0, 1, 1, 2, 2]);
        let gopher: Vec<usize> = (0..18)
            .map(|j| ((f64::from(j) + 0.5) * 12.0 / 18.0).floor() as usize)
            .collect();
        assert_eq!(map("gopher", 12, 18), gopher);
        assert_eq!(map("average", 3, 6), [0, 0, 1, 1, 2, 2]);
        assert_eq!(
            map("on-top", 12, 16),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 9, 10, 11]
        );
    }

    #[test]
    fn llama_pro_inserts_after_each_group() {
        // 32 to 40 in the paper: a copy after blocks 3, 7, ..., 31.
        let plan = Method::by_name("llama-pro").unwrap().plan(32, 40).unwrap();
        let added: Vec<usize> = plan
            .slots
            .iter()
            .filter(|s| !s.is_kept())
            .map(|s| s.source)
            .collect();
        assert_eq!(added, [3, 7, 11, 15, 19, 23, 27, 31]);
        assert!(
            plan.slots
                .iter()
                .filter(|s| !s.is_kept())
                .all(|s| s.init == Some(Initializer::ZERO_RESIDUAL))
        );
    }

    /// ModernBERT's round(j·n/N) asks for block 12 of 12 when doubling; ours never overruns.
    #[test]
    fn gopher_scaling_stays_inside_the_source() {
        for n in 1..40 {
            for to in n + 1..4 * n {
                assert!(map("gopher", n, to).iter().all(|&s| s < n));
            }
        }
        let shipped =
            |j: usize, n: usize, to: usize| ((j * n) as f64 / to as f64).round_ties_even() as usize;
        assert_eq!(shipped(23, 12, 24), 12, "the bug this guards against");
    }

    #[test]
    fn unreachable_depths_are_refused_with_the_reachable_ones() {
        for (name, n, to) in [
            ("g-stack", 12, 18),
            ("stackbert", 12, 36),
            ("gradual", 12, 25),
            ("midas", 12, 17),
            ("solar", 12, 17),
            ("yi", 12, 25),
            ("llama-pro", 12, 17),
            ("interposition", 12, 18),
        ] {
            let error = Method::by_name(name).unwrap().plan(n, to).unwrap_err();
            assert!(error.to_string().contains("it needs"), "{error}");
        }
        assert_eq!(
            Method::by_name("llamapro").err().unwrap().hint(),
            Some("did you mean `llama-pro`?")
        );
    }
}
