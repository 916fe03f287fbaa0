//! Growth on real files: what is kept, what is new, and what others got wrong.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use proptest::prelude::*;
use scale_ckpt::certify::{Certificate, certify};
use scale_ckpt::checkpoint::layout::{self, BLOCK};
use scale_ckpt::checkpoint::{Checkpoint, Dtype, Gpt2Config, save};
use scale_ckpt::durable::StagedDir;
use scale_ckpt::grower::Grower;
use scale_ckpt::growth::{
    Claim, Growth, GrowthPlan, Initializer, METHODS, Method, Placement, init,
};
use scale_ckpt::model::weights;
use support::{Expected, assert_close, fixture};

/// Any file of this size or less holds a pico model's shard.
const SMALL_SHARD: u64 = 20_000;

fn pico() -> Checkpoint {
    Checkpoint::open_dir(&fixture("gpt2-pico")).unwrap()
}

fn grow(source: &Checkpoint, plan: &GrowthPlan, seed: u64) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("grown");
    let grower = Grower {
        source,
        plan,
        seed,
        probe: None,
        max_shard_bytes: u64::MAX,
        force: false,
    };
    grower.run(&out).unwrap();
    let grown = Checkpoint::open_dir(&out).unwrap();
    (dir, grown)
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    checkpoint.tensor(name).unwrap().read_bytes().unwrap()
}

fn probe(checkpoint: &Checkpoint) -> Vec<u32> {
    (0..48)
        .map(|i| i * 31 % checkpoint.config.vocab_size as u32)
        .collect()
}

fn certificate(source: &Checkpoint, grown: &Checkpoint, claim: Claim) -> Certificate {
    certify(source, grown, claim, &probe(source)).unwrap()
}

fn every_initializer() -> Vec<Initializer> {
    let parse = |row: (&str, &str)| {
        if row.0 == "blend" {
            Initializer::parse("blend:weights={\"0\"=0.25,\"1\"=0.75}")
        } else {
            Initializer::parse(row.0)
        }
    };
    init::CATALOGUE
        .into_iter()
        .map(|row| parse(row).unwrap())
        .collect()
}

#[test]
fn every_initializer_keeps_the_source_and_honours_its_claim() {
    let source = pico();
    for init in every_initializer() {
        for placement in [Placement::Interleave, Placement::Stack, Placement::Bottom] {
            let plan = match GrowthPlan::from_map(2, &placement.layer_map(2, 5), &init) {
                Ok(plan) => plan,
                // Nothing is above the last block of these maps.
                Err(_) if init.name() == "interpolate" => continue,
                Err(error) => panic!("{init}: {error}"),
            };
            let (_dir, grown) = grow(&source, &plan, 7);
            assert_eq!(grown.config.n_layer, 5);
            assert!(grown.non_finite().unwrap().is_empty(), "{init}");
            for name in ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"] {
                assert_eq!(bytes(&source, name), bytes(&grown, name), "{init}: {name}");
            }
            for (layer, slot) in plan
                .slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| slot.is_kept())
            {
                for param in &BLOCK {
                    assert_eq!(
                        bytes(&source, &param.full_name(slot.source)),
                        bytes(&grown, &param.full_name(layer)),
                        "{init}: {}",
                        param.name
                    );
                }
            }
            let measured = certificate(&source, &grown, plan.claim());
            measured.enforce().unwrap();
            if plan.claim() == Claim::Exact {
                assert_eq!(
                    measured.max_abs_logit_diff, 0.0,
                    "{init}: an added zero changes nothing"
                );
            }
        }
    }
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let source = pico();
    for init in every_initializer() {
        let plan = GrowthPlan::from_map(2, &[0, 0, 0, 1], &init).unwrap();
        let read = |seed| {
            let (dir, grown) = grow(&source, &plan, seed);
            let all = std::fs::read(&grown.weight_files()[0]).unwrap();
            drop(dir);
            all
        };
        assert_eq!(read(1), read(1), "{init}");
        let draws = matches!(
            init,
            Initializer::Random(_) | Initializer::Identity(_) | Initializer::Noisy(_)
        );
        assert_eq!(read(1) != read(2), draws, "{init}");
    }
}

/// Two blocks that draw from one seed must not be twins.
#[test]
fn random_blocks_differ_from_each_other() {
    let plan =
        GrowthPlan::from_map(2, &[0, 0, 0, 1], &Initializer::parse("random").unwrap()).unwrap();
    let (_dir, grown) = grow(&pico(), &plan, 1);
    assert_ne!(
        bytes(&grown, "h.1.mlp.c_fc.weight"),
        bytes(&grown, "h.2.mlp.c_fc.weight")
    );
    assert_ne!(
        bytes(&grown, "h.1.attn.c_proj.weight")[..64],
        bytes(&grown, "h.1.mlp.c_proj.weight")[..64]
    );
}

#[test]
fn grown_logits_are_those_of_transformers() {
    let device = Device::flex();
    let expected = Expected::load(&fixture("gpt2-pico/expected.safetensors"));
    let shape = expected.shape("input_ids").to_vec();
    let ids: Vec<i64> = expected
        .values("input_ids")
        .iter()
        .map(|&x| x as i64)
        .collect();
    for (init, name) in [
        (Initializer::ZERO_RESIDUAL, "grow_zero.logits"),
        (Initializer::COPY, "grow_copy.logits"),
    ] {
        let (_dir, grown) = grow(
            &pico(),
            &GrowthPlan::from_map(2, &[0, 0, 1, 1], &init).unwrap(),
            1,
        );
        let ids: Tensor<2, Int> =
            Tensor::from_data(TensorData::new(ids.clone(), shape.clone()), &device);
        let logits = weights::to_host(weights::load(&grown, &device).unwrap().logits(ids)).unwrap();
        assert_close(name, logits.as_slice(), expected.values(name), 1e-5);
    }
}

/// A model of GPT-2 small's depth, at a width that tests can afford.
fn random_checkpoint(dir: &Path, n_layer: usize) -> Checkpoint {
    let config = Gpt2Config::new(211, 64, 48, n_layer, 4).unwrap();
    let model = weights::init(&config, config.n_layer, 3, &Device::flex()).unwrap();
    let named = weights::read_all(&model).unwrap();
    let staged = StagedDir::new(&dir.join("source"), false).unwrap();
    save::save(
        &staged,
        &config,
        weights::tensors_out(&named, Dtype::F32),
        u64::MAX,
        &|_| {},
    )
    .unwrap();
    Checkpoint::open_dir(&staged.publish().unwrap()).unwrap()
}

#[test]
fn zero_residual_growth_is_exact_at_every_depth() {
    let dir = tempfile::tempdir().unwrap();
    let source = random_checkpoint(dir.path(), 12);
    for to in [13, 18, 24] {
        let plan = GrowthPlan::from_map(
            12,
            &Placement::Interleave.layer_map(12, to),
            &Initializer::ZERO_RESIDUAL,
        )
        .unwrap();
        let (_dir, grown) = grow(&source, &plan, 1);
        let measured = certificate(&source, &grown, Claim::Exact);
        assert_eq!(
            (measured.max_abs_logit_diff, measured.holds),
            (0.0, Some(true)),
            "12 -> {to}"
        );
    }
}

#[test]
fn every_method_grows_a_twelve_layer_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = random_checkpoint(dir.path(), 12);
    for method in &METHODS {
        let plan = method.plan(12, 24).unwrap();
        let (_dir, grown) = grow(&source, &plan, 1);
        assert_eq!(grown.config.n_layer, 24, "{}", method.name);
        certificate(&source, &grown, plan.claim())
            .enforce()
            .unwrap();
    }
}

// What others got wrong (see the sources named in `growth::method`).

/// LLaMA-Pro's script zeroes `o_proj` and `down_proj` by name: on GPT-2 nothing matches, and
/// biases stay. Both `c_proj` weights and both biases must be zero, and nothing else.
#[test]
fn zero_residual_zeroes_both_projections_with_their_biases() {
    let (_dir, grown) = grow(
        &pico(),
        &GrowthPlan::from_map(2, &[0, 0, 1], &Initializer::ZERO_RESIDUAL).unwrap(),
        1,
    );
    for param in &BLOCK {
        let zero = bytes(&grown, &param.full_name(1)).iter().all(|&b| b == 0);
        assert_eq!(zero, param.name.contains("c_proj"), "{}", param.name);
    }
}

/// The staged-training code, asked for identity blocks, copied them plainly and damaged the
/// state of the originals.
#[test]
fn identity_blocks_are_the_identity_and_leave_the_originals_alone() {
    let source = pico();
    let plan =
        GrowthPlan::from_map(2, &[0, 0, 1, 1], &Initializer::parse("identity").unwrap()).unwrap();
    let (_dir, grown) = grow(&source, &plan, 1);
    assert_eq!(
        certificate(&source, &grown, Claim::Exact).max_abs_logit_diff,
        0.0
    );
    assert_ne!(
        bytes(&source, "h.0.mlp.c_fc.weight"),
        bytes(&grown, "h.1.mlp.c_fc.weight")
    );
    assert_eq!(
        bytes(&source, "h.1.mlp.c_fc.weight"),
        bytes(&grown, "h.2.mlp.c_fc.weight")
    );
}

/// LESA's loader took the LayerNorms of every new block from block 0.
#[test]
fn new_blocks_take_their_layer_norms_from_their_own_parents() {
    let source = pico();
    let (_dir, grown) = grow(
        &source,
        &GrowthPlan::from_map(2, &[0, 1, 1], &Initializer::ZERO_RESIDUAL).unwrap(),
        1,
    );
    assert_eq!(
        bytes(&source, "h.1.ln_1.weight"),
        bytes(&grown, "h.2.ln_1.weight")
    );
    assert_ne!(
        bytes(&source, "h.0.ln_1.weight"),
        bytes(&grown, "h.2.ln_1.weight")
    );
}

/// LLaMA-Factory untied the head when saving and left the flag as it was.
#[test]
fn heads_stay_tied_or_separate_as_they_were() {
    for (name, tied) in [("gpt2-pico", true), ("gpt2-variants/untied", false)] {
        let source = Checkpoint::open_dir(&fixture(name)).unwrap();
        let (_dir, grown) = grow(
            &source,
            &GrowthPlan::from_map(2, &[0, 0, 1], &Initializer::COPY).unwrap(),
            1,
        );
        assert_eq!(grown.config.tie_word_embeddings, tied);
        assert_eq!(grown.tensor("lm_head.weight").is_ok(), !tied);
    }
}

/// An exact claim that does not hold is an error, whatever made the weights.
#[test]
fn a_false_claim_is_refused() {
    let source = pico();
    let (_dir, grown) = grow(
        &source,
        &GrowthPlan::from_map(2, &[0, 0, 1], &Initializer::COPY).unwrap(),
        1,
    );
    let error = certificate(&source, &grown, Claim::Exact)
        .enforce()
        .unwrap_err();
    assert!(error.to_string().contains("exact was claimed"), "{error}");
}

#[test]
fn interpolation_is_between_parent_and_next() {
    let source = pico();
    let (_dir, grown) = grow(
        &source,
        &GrowthPlan::from_map(
            2,
            &[0, 0, 1],
            &Initializer::parse("interpolate:coefficient=0.25").unwrap(),
        )
        .unwrap(),
        1,
    );
    let read = |c: &Checkpoint, name: &str| c.tensor(name).unwrap().read().unwrap();
    let (a, b) = (
        read(&source, "h.0.mlp.c_fc.weight"),
        read(&source, "h.1.mlp.c_fc.weight"),
    );
    let wanted: Vec<f64> = a
        .as_slice()
        .iter()
        .zip(b.as_slice())
        .map(|(&a, &b)| 0.75 * f64::from(a) + 0.25 * f64::from(b))
        .collect();
    assert_close(
        "middle",
        read(&grown, "h.1.mlp.c_fc.weight").as_slice(),
        &wanted,
        1e-6,
    );
}

/// As its code does it: averages between blocks, and above the last one, where there is nothing
/// to average with, its copy, which the plan says.
#[test]
fn the_average_of_the_top_block_is_its_copy() {
    let source = pico();
    let plan = Method::by_name("average").unwrap().plan(2, 4).unwrap();
    assert_eq!(plan.to_string(), "0 0+1* 1 1*");
    assert_eq!(plan.slots[3].init, Some(Initializer::COPY));
    let (_dir, grown) = grow(&source, &plan, 1);
    let read = |c: &Checkpoint, name: &str| c.tensor(name).unwrap().read().unwrap();
    for param in &BLOCK {
        let [a, b] = [0, 1].map(|layer| read(&source, &param.full_name(layer)).values);
        let half = &a + &((b - &a) * 0.5);
        assert_eq!(
            read(&grown, &param.full_name(1)).values,
            half,
            "{}",
            param.name
        );
        assert_eq!(
            bytes(&grown, &param.full_name(3)),
            bytes(&source, &param.full_name(1)),
            "the top has no next block"
        );
    }
}

/// OpT-DeUS's start, without its alignment: averaged blocks that are the identity.
#[test]
fn initializers_compose() {
    let source = pico();
    let init = Initializer::parse("scaled:scale=0.0, of=\"interpolate\"").unwrap();
    let (_dir, grown) = grow(
        &source,
        &GrowthPlan::from_map(2, &[0, 0, 1], &init).unwrap(),
        1,
    );
    assert_eq!(
        certificate(&source, &grown, Claim::Exact).max_abs_logit_diff,
        0.0
    );
    assert_ne!(
        bytes(&source, "h.0.mlp.c_fc.weight"),
        bytes(&grown, "h.1.mlp.c_fc.weight")
    );
}

/// A name of another architecture must not silently scale nothing (LLaMA-Pro's names on GPT-2).
#[test]
fn scaling_what_is_not_there_is_refused() {
    let init = Initializer::parse("scaled:scale=0.0, only=[\"o_proj\", \"down_proj\"]").unwrap();
    let error = GrowthPlan::from_map(2, &[0, 0, 1], &init).unwrap_err();
    assert!(error.to_string().contains("o_proj"), "{error}");
}

#[test]
fn formats_keep_names_and_types() {
    for (variant, prefixed, dtype) in [
        ("bf16", true, Dtype::Bf16),
        ("f16", true, Dtype::F16),
        ("noprefix-buffers", false, Dtype::F32),
        ("pytorch-bin", true, Dtype::F32),
        ("sharded", true, Dtype::F32),
    ] {
        let source = Checkpoint::open_dir(&fixture("gpt2-variants").join(variant)).unwrap();
        let plan = GrowthPlan::from_map(2, &[0, 0, 1], &Initializer::parse("interpolate").unwrap())
            .unwrap();
        let (_dir, grown) = grow(&source, &plan, 1);
        let raw = std::fs::read(&grown.weight_files()[0]).unwrap();
        let file = safetensors::SafeTensors::deserialize(&raw).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&raw).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(
            file.len(),
            layout::params(&grown.config).len(),
            "{variant}: buffers and tied heads are not written"
        );
        assert!(
            file.names()
                .iter()
                .all(|name| name.starts_with("transformer.") == prefixed),
            "{variant}"
        );
        assert_eq!(grown.tensor("h.1.mlp.c_fc.weight").unwrap().dtype, dtype);
        assert_eq!(
            bytes(&source, "h.1.mlp.c_fc.weight"),
            bytes(&grown, "h.2.mlp.c_fc.weight"),
            "{variant}"
        );
    }
}

#[test]
fn shards_and_their_index_open_again() {
    let source = pico();
    let plan = GrowthPlan::from_map(2, &[0, 0, 1, 1], &Initializer::ZERO_RESIDUAL).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let staged = StagedDir::new(&dir.path().join("out"), false).unwrap();
    let growth = Growth::new(&source, &plan, 1).unwrap();
    save::save(
        &staged,
        &growth.config(),
        growth.tensors().unwrap(),
        SMALL_SHARD,
        &|_| {},
    )
    .unwrap();
    let out = staged.publish().unwrap();
    let shards = std::fs::read_dir(&out)
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|x| x == "safetensors")
        })
        .count();
    assert!(shards > 5, "{shards}");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(
        index["metadata"]["total_size"],
        4 * layout::parameter_count(&growth.config())
    );
    let grown = Checkpoint::open_dir(&out).unwrap();
    assert_eq!(
        certificate(&source, &grown, Claim::Exact).max_abs_logit_diff,
        0.0
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the plan, every block's bytes are those of its source block (copies), and the
    /// first places are kept in the order of the map.
    #[test]
    fn any_map_is_carried_out(map in proptest::collection::vec(0_usize..2, 1..9)) {
        let source = pico();
        let plan = GrowthPlan::from_map(2, &map, &Initializer::COPY).unwrap();
        let (_dir, grown) = grow(&source, &plan, 1);
        prop_assert_eq!(grown.config.n_layer, map.len());
        for (layer, &from) in map.iter().enumerate() {
            for param in &BLOCK {
                prop_assert_eq!(bytes(&source, &param.full_name(from)), bytes(&grown, &param.full_name(layer)));
            }
        }
    }
}
