//! The accounts against an interpreter that knows nothing of their formulas: it writes down
//! the operations of a forward pass on whole sequences and walks them backward.

use std::collections::BTreeMap;

use super::flops::Pass;
use super::*;
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::layout::{parameter_count, params};

type Id = usize;

/// One operation. Products are lists of (m, k, n), one for each matrix product done.
struct Op {
    inputs: Vec<Id>,
    output: Id,
    products: Vec<(u64, u64, u64)>,
    /// What its gradient needs: a product the other factor, everything else these.
    keeps: Vec<Id>,
}

/// The operations of a forward pass, on tensors of a known size.
#[derive(Default)]
struct Tape {
    ops: Vec<Op>,
    sizes: Vec<u64>,
    requires_grad: Vec<bool>,
    weights: BTreeMap<String, Id>,
}

impl Tape {
    fn tensor(&mut self, size: u64, requires_grad: bool) -> Id {
        self.sizes.push(size);
        self.requires_grad.push(requires_grad);
        self.sizes.len() - 1
    }

    fn apply(
        &mut self,
        inputs: Vec<Id>,
        size: u64,
        products: Vec<(u64, u64, u64)>,
        keeps: Vec<Id>,
    ) -> Id {
        let requires_grad = inputs.iter().any(|&x| self.requires_grad[x]);
        let output = self.tensor(size, requires_grad);
        self.ops.push(Op {
            inputs,
            output,
            products,
            keeps,
        });
        output
    }

    fn weight(&self, name: &str) -> Id {
        self.weights[name]
    }

    fn layer_norm(&mut self, x: Id, name: &str) -> Id {
        let (w, b) = (
            self.weight(&format!("{name}.weight")),
            self.weight(&format!("{name}.bias")),
        );
        self.apply(vec![x, w, b], self.sizes[x], vec![], vec![x])
    }

    fn linear(&mut self, x: Id, name: &str, t: u64, k: u64, n: u64) -> Id {
        let (w, b) = (
            self.weight(&format!("{name}.weight")),
            self.weight(&format!("{name}.bias")),
        );
        let y = self.apply(vec![x, w], t * n, vec![(t, k, n)], vec![]);
        self.apply(vec![y, b], t * n, vec![], vec![])
    }

    fn add(&mut self, a: Id, b: Id) -> Id {
        self.apply(vec![a, b], self.sizes[a], vec![], vec![])
    }

    /// Query by query, over the keys that each may see.
    fn attention(&mut self, qkv: Id, t: u64, heads: u64, s: u64) -> Id {
        let [q, k, v] =
            [0, 1, 2].map(|_| self.apply(vec![qkv], self.sizes[qkv] / 3, vec![], vec![]));
        let rows = |f: &dyn Fn(u64) -> (u64, u64, u64)| {
            (0..heads)
                .flat_map(|_| (1..=t).map(f).collect::<Vec<_>>())
                .collect()
        };
        let scores = self.apply(
            vec![q, k],
            heads * t * t,
            rows(&|seen| (1, s, seen)),
            vec![],
        );
        let weights = self.apply(vec![scores], heads * t * t, vec![], vec![]);
        self.ops.last_mut().unwrap().keeps = vec![weights];
        self.apply(
            vec![weights, v],
            t * heads * s,
            rows(&|seen| (1, seen, s)),
            vec![],
        )
    }

    /// One sequence through the model.
    fn record(config: &Gpt2Config, context: usize, trains: &Trains) -> Self {
        let mut tape = Self::default();
        for param in params(config) {
            let id = tape.tensor(param.numel() as u64, trains(&param.name));
            tape.weights.insert(param.name, id);
        }
        let (t, d, f) = (context as u64, config.n_embd as u64, config.n_inner as u64);
        let (h, v) = (config.n_head as u64, config.vocab_size as u64);
        let embeddings = vec![tape.weight("wte.weight"), tape.weight("wpe.weight")];
        let mut x = tape.apply(embeddings, t * d, vec![], vec![]);
        for l in 0..config.n_layer {
            let a = tape.layer_norm(x, &format!("h.{l}.ln_1"));
            let qkv = tape.linear(a, &format!("h.{l}.attn.c_attn"), t, d, 3 * d);
            let mixed = tape.attention(qkv, t, h, d / h);
            let out = tape.linear(mixed, &format!("h.{l}.attn.c_proj"), t, d, d);
            x = tape.add(x, out);
            let a = tape.layer_norm(x, &format!("h.{l}.ln_2"));
            let inner = tape.linear(a, &format!("h.{l}.mlp.c_fc"), t, d, f);
            let active = tape.apply(vec![inner], t * f, vec![], vec![inner]);
            let out = tape.linear(active, &format!("h.{l}.mlp.c_proj"), t, f, d);
            x = tape.add(x, out);
        }
        let hidden = tape.layer_norm(x, "ln_f");
        let head = tape.weight(if config.tie_word_embeddings {
            "wte.weight"
        } else {
            "lm_head.weight"
        });
        let logits = tape.apply(vec![hidden, head], t * v, vec![(t, d, v)], vec![]);
        tape.apply(vec![logits], 1, vec![], vec![]);
        tape
    }

    fn is_weight(&self, id: Id) -> bool {
        id < self.weights.len()
    }

    /// Walks forward, then backward from the loss along gradients that are asked for.
    fn flops(&self) -> Flops {
        let mut flops = Flops::default();
        let cost = |op: &Op| {
            op.products
                .iter()
                .map(|(m, k, n)| 2 * m * k * n)
                .sum::<u64>()
        };
        let mut has_grad = vec![false; self.sizes.len()];
        *has_grad.last_mut().unwrap() = true;
        for op in self.ops.iter().rev() {
            flops.forward += cost(op);
            if !has_grad[op.output] {
                continue;
            }
            for &input in op.inputs.iter().filter(|&&x| self.requires_grad[x]) {
                has_grad[input] = true;
                if self.is_weight(input) {
                    flops.weight_gradients += cost(op);
                } else {
                    flops.input_gradients += cost(op);
                }
            }
        }
        flops
    }

    /// Values kept from forward to backward, up to the hidden states before the head.
    fn held(&self) -> u64 {
        let mut kept = std::collections::BTreeSet::new();
        for op in &self.ops[..self.ops.len() - 2] {
            if !self.requires_grad[op.output] {
                continue;
            }
            kept.extend(&op.keeps);
            if let ([a, b], false) = (&op.inputs[..], op.products.is_empty()) {
                kept.extend(self.requires_grad[*b].then_some(*a));
                kept.extend(self.requires_grad[*a].then_some(*b));
            }
        }
        kept.iter()
            .filter(|&&id| !self.is_weight(id))
            .map(|&id| self.sizes[id])
            .sum()
    }
}

/// Numbers that look random, the same every time (Knuth's MMIX multiplier).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn config(v: usize, positions: usize, d: usize, layers: usize, heads: usize) -> Gpt2Config {
    Gpt2Config::new(v, positions, d, layers, heads).unwrap()
}

fn random_config(dice: &mut Dice) -> Gpt2Config {
    let heads = 1 + dice.below(4);
    let width = heads * (1 + dice.below(8));
    let mut config = config(
        1 + dice.below(100),
        1 + dice.below(20),
        width,
        1 + dice.below(5),
        heads,
    );
    config.n_inner = 1 + dice.below(40);
    config.tie_word_embeddings = dice.below(2) == 0;
    config
}

#[test]
fn the_account_is_that_of_the_operations_for_any_trained_set() {
    let mut dice = Dice(2024);
    for round in 0..2000 {
        let config = random_config(&mut dice);
        let context = 1 + dice.below(config.n_positions);
        let odds = 1 + dice.below(40);
        let trained: Vec<String> = params(&config)
            .into_iter()
            .map(|p| p.name)
            .filter(|_| dice.below(odds) == 0)
            .collect();
        let trains = |name: &str| trained.iter().any(|t| t == name);
        let tape = Tape::record(&config, context, &trains);
        let (counted, t) = (per_token(&config, context, &trains), context as u64);
        let sequence = Flops {
            forward: counted.forward * t,
            input_gradients: counted.input_gradients * t,
            weight_gradients: counted.weight_gradients * t,
        };
        assert_eq!(
            sequence,
            tape.flops(),
            "round {round}: {config:?} {trained:?}"
        );
        let pass = Pass::of(&config, context, &trains);
        let held = (pass.held + pass.held_wide + pass.held_by_attention) * t;
        assert_eq!(held, tape.held(), "round {round}: {config:?} {trained:?}");
    }
}

#[test]
fn every_parameter_is_asked_for_and_no_other() {
    let mut untied = config(10, 4, 8, 2, 2);
    untied.tie_word_embeddings = false;
    for config in [config(10, 4, 8, 2, 2), untied] {
        let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
        per_token(&config, 4, &|name| {
            asked.borrow_mut().insert(name.to_owned());
            false
        });
        let all = params(&config).into_iter().map(|p| p.name).collect();
        assert_eq!(asked.into_inner(), all);
    }
}

#[test]
fn a_small_model_by_hand() {
    // D = 2, F = 8, V = 5, T = 3, one block: projections 2·(2·6 + 2·2 + 2·8 + 8·2) = 96,
    // attention 2·2·(3 + 1) = 16, head 2·2·5 = 20.
    let config = config(5, 3, 2, 1, 1);
    let all = per_token(&config, 3, &|_| true);
    assert_eq!(
        all,
        Flops {
            forward: 132,
            input_gradients: 96 + 32 + 20,
            weight_gradients: 96 + 20,
        }
    );
    assert_eq!(all.total(), 396);
    assert_eq!(all.over(10), 3960.0);
    assert_eq!(per_token(&config, 3, &|_| false).total(), 132);
    // Only the last projection: its own gradient, and the head's input.
    let last = per_token(&config, 3, &|name| name == "h.0.mlp.c_proj.weight");
    assert_eq!((last.input_gradients, last.weight_gradients), (20, 32));
    // Only the tied embedding: the gradient runs through everything, down to the look-up.
    let wte = per_token(&config, 3, &|name| name == "wte.weight");
    assert_eq!((wte.input_gradients, wte.weight_gradients), (148, 20));
}

#[test]
fn a_frozen_prefix_costs_its_forward_pass() {
    let config = config(50304, 1024, 768, 12, 12);
    let new = |name: &str| name.starts_with("h.11.");
    let with_head = |name: &str| new(name) || name.starts_with("ln_f.");
    let block = per_token(&config, 1024, &new).forward
        - per_token(&config.with_n_layer(11), 1024, &new).forward;
    let cost = per_token(&config, 1024, &with_head);
    let head = 2 * 768 * 50304;
    assert_eq!(cost.forward, 12 * block + head);
    // Down to ln_1, which trains and asks for the gradient in c_attn's input.
    let attention = 2 * 768 * 1025;
    assert_eq!(cost.input_gradients, block + attention + head);
    assert_eq!(cost.weight_gradients, block - attention);
}

/// 124M, as the code of arXiv 2411.18700 makes it.
fn small() -> Gpt2Config {
    config(50304, 1024, 768, 12, 12)
}

/// Whether `name` trains in phase 1 of a stage whose new blocks start at `first`.
fn released(first: usize) -> impl Fn(&str) -> bool {
    move |name| {
        crate::checkpoint::layout::split_block_name(name).is_none_or(|(layer, _)| layer >= first)
    }
}

/// Cost of growing to `config` in S stages over one token, half of each stage with the old
/// blocks frozen, in whatever unit `cost` counts.
fn staged(config: &Gpt2Config, stages: usize, cost: impl Fn(&Gpt2Config, &Trains) -> u64) -> f64 {
    let per_stage = config.n_layer / stages;
    let both: u64 = (1..=stages)
        .map(|i| {
            let part = config.with_n_layer(i * per_stage);
            cost(&part, &released((i - 1) * per_stage)) + cost(&part, &|_| true)
        })
        .sum();
    both as f64 / (2 * stages) as f64
}

fn near(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b} ± {tolerance}");
}

#[test]
fn the_papers_closed_forms_are_the_sum_of_its_stages() {
    for (layers, stages) in [
        (12, 1),
        (12, 2),
        (12, 3),
        (12, 4),
        (12, 6),
        (12, 12),
        (48, 8),
    ] {
        let config = config(11, 4, 4, layers, 2);
        let passes =
            |config: &Gpt2Config, trains: &Trains| LayerPasses::per_token(config, trains).total();
        let summed = staged(&config, stages, passes);
        near(summed, paper::incremental(1.0, layers, stages), 1e-9);
        let budget = LayerPasses::per_token(&config, &|_| true).over(1_000);
        assert_eq!(budget, (2 * layers * 1000) as f64);
        let left = (budget - 1e3 * summed) / (2 * layers) as f64;
        near(left, paper::continual_tokens(1e3, stages), 1e-6);
    }
    for (stages, c_inc, t_cont) in [(4, 0.531, 0.469), (8, 0.453, 0.547), (12, 0.427, 0.573)] {
        near(paper::incremental(1.0, 12, stages) / 24.0, c_inc, 5e-4);
        near(paper::continual_tokens(1.0, stages), t_cont, 5e-4);
    }
}

#[test]
fn the_paper_looks_at_blocks_only() {
    let config = config(11, 4, 4, 6, 2);
    let passes = |trains: &Trains| LayerPasses::per_token(&config, trains);
    assert_eq!(passes(&|name| name == "wte.weight").total(), 6);
    assert_eq!(passes(&|name| name == "h.4.ln_1.bias").backward, 2);
    assert_eq!(passes(&|name| name.starts_with("h.0.")).total(), 12);
}

#[test]
fn the_head_of_a_small_model_weighs_five_layers() {
    // 77.3 MFLOP against 15.7.
    let head = layer_equivalents_of_head(&small(), 1024);
    near(head, 4.91, 5e-3);
    // With every layer forward, input and weight gradient of the same price, which it would
    // be without attention, the released code's incremental training over full training is
    // ((5S + 7) / 4S · L + 3h) / 3(L + h), and what is left of the budget 7/12 (1 − 1/S) L / (L + h).
    for (s, c_inc, t_cont) in [
        (4.0, 0.690, 0.310),
        (8.0, 0.638, 0.362),
        (12.0, 0.621, 0.379),
    ] {
        let ratio = ((5.0 * s + 7.0) / (4.0 * s) * 12.0 + 3.0 * head) / (3.0 * (12.0 + head));
        near(ratio, c_inc, 6e-4);
        near(
            7.0 / 12.0 * (1.0 - 1.0 / s) * 12.0 / (12.0 + head),
            t_cont,
            6e-4,
        );
        near(
            1.0 - ratio,
            7.0 / 12.0 * (1.0 - 1.0 / s) * 12.0 / (12.0 + head),
            1e-12,
        );
    }
}

#[test]
fn attention_makes_frozen_layers_dearer_than_two_passes() {
    // The same from the ledger itself. Backward, attention costs twice its forward pass
    // whether anything trains or not, so a frozen block that gradients run through costs
    // 2 + a passes, a its share of a block: S - 1 of 4S blocks more.
    let head = layer_equivalents_of_head(&small(), 1024);
    let a = (2.0 * 768.0 * 1025.0) / (24.0 * 768.0 * 768.0 + 2.0 * 768.0 * 1025.0);
    let cost = |config: &Gpt2Config, trains: &Trains| per_token(config, 1024, trains).total();
    for (layers, stages, c_inc) in [(12, 4, 0.694), (12, 12, 0.626), (24, 8, 0.582)] {
        let config = small().with_n_layer(layers);
        let full = per_token(&config, 1024, &|_| true).total() as f64;
        let (l, s) = (layers as f64, stages as f64);
        let passes = (5.0 * s + 7.0 + a * (s - 1.0)) / (4.0 * s) * l + 3.0 * head;
        let ratio = staged(&config, stages, cost) / full;
        near(ratio, passes / (3.0 * (l + head)), 1e-9);
        near(ratio, c_inc, 6e-4);
    }
}

#[test]
fn true_freezing_is_cheaper() {
    // Without head and attention: (S + 2) / S over 3.
    let config = config(1, 1, 4096, 12, 1);
    let full = per_token(&config, 1, &|_| true).total() as f64;
    let s = 4;
    let both: u64 = (1..=s)
        .map(|i| {
            let part = config.with_n_layer(i * 3);
            let first = (i - 1) * 3;
            let new = move |name: &str| name.starts_with("h.") && released(first)(name);
            per_token(&part, 1, &new).total() + per_token(&part, 1, &|_| true).total()
        })
        .sum();
    near(both as f64 / (2 * s) as f64 / full, 6.0 / 4.0 / 3.0, 1e-5);
}

#[test]
fn six_per_parameter_is_near_the_truth() {
    let source = known_source("openai-community/gpt2").unwrap();
    assert!(source.estimated && source.note.contains("no token count"));
    let config = Gpt2Config::new(50257, 1024, 768, 12, 12).unwrap();
    let six = 6.0 * 124_439_808.0 * source.tokens as f64;
    near(source.flops(&config) / six, 1.0, 0.1);
    assert_eq!(known_source("gpt2"), Some(source));
    assert!(
        !known_source("mdouglas/llmc-gpt2-774M-150B")
            .unwrap()
            .estimated
    );
    assert_eq!(known_source("distilgpt2"), None);
    near(mfu(312e12 * 0.4, 312e12), 0.4, 1e-12);
}

#[test]
fn memory_by_hand() {
    // D = 2, F = 8, V = 5, T = 3, H = 1: wte 10, wpe 6, block 8 + 18 + 6 + 24 + 18, ln_f 4.
    let config = config(5, 3, 2, 1, 1);
    let batch = MicroBatch {
        sequences: 4,
        context: 3,
        logit_rows: 8,
        accumulates: false,
        fused: false,
        value_bytes: 4,
        recompute: false,
    };
    let per_block = 8 * 2 + 2 * 8 + 3;
    let p = 10 + 6 + 74 + 4;
    let all = memory_estimate(&config, &batch, &|_| true);
    assert_eq!(parameter_count(&config), p);
    assert_eq!(
        all,
        Memory {
            weights: 4 * p,
            gradients: 4 * p,
            gradient_sum: 0,
            moments: 8 * p,
            activations: 4 * 12 * (per_block + 2),
            head: 4 * (2 * 8 * 5 + 2 * 12 * 2 + 5 * 2),
        }
    );
    assert_eq!(all.peak(), 12 * p + all.activations + all.head);
    let fused = MicroBatch {
        fused: true,
        ..batch
    };
    let fused = memory_estimate(&config, &fused, &|_| true);
    assert_eq!(
        (fused.activations, fused.head),
        (all.activations - 4 * 12 * 3, all.head - 4 * 8 * 5)
    );
    let half = MicroBatch {
        value_bytes: 2,
        ..batch
    };
    let half = memory_estimate(&config, &half, &|_| true);
    assert_eq!(half.activations, 12 * (4 * (4 + 2) + 2 * (per_block - 4)));
    let again = MicroBatch {
        recompute: true,
        ..batch
    };
    let again = memory_estimate(&config, &again, &|_| true);
    // The one block, and what it and the last LayerNorm read.
    assert_eq!(again.activations, all.activations + 12 * 4 * 2 * 2);
    let gradients_last = Memory {
        activations: 0,
        head: 0,
        ..all
    };
    assert_eq!(gradients_last.peak(), 16 * p);
    let frozen = memory_estimate(&config, &batch, &|_| false);
    assert_eq!(
        (frozen.gradients, frozen.moments, frozen.activations),
        (0, 0, 0)
    );
    assert_eq!(frozen.head, 4 * (2 * 8 * 5 + 12 * 2));
    let accumulates = MicroBatch {
        accumulates: true,
        ..batch
    };
    let accumulates = memory_estimate(&config, &accumulates, &|_| true);
    assert_eq!(accumulates.gradient_sum, 4 * p);
    assert_eq!(accumulates.peak(), all.peak() + 4 * p);
}

#[test]
fn hostile_sizes_do_not_overflow() {
    let config = config(1 << 24, 1 << 24, 1 << 17, 4096, 1 << 17);
    let batch = MicroBatch {
        sequences: usize::MAX,
        context: 1 << 24,
        logit_rows: usize::MAX,
        accumulates: true,
        fused: false,
        value_bytes: 4,
        recompute: false,
    };
    let memory = memory_estimate(&config, &batch, &|_| true);
    assert_eq!(memory.peak(), u64::MAX);
    assert!(per_token(&config, 1 << 24, &|_| true).total() < u64::MAX / 16);
}
