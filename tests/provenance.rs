//! What a growth says its blocks are made of is what they are made of: source blocks are spoiled
//! one by one, and exactly the blocks that name them change.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Seek;
use std::path::Path;

use burn::tensor::Device;
use clap::ValueEnum;
use scale_ckpt::checkpoint::layout::split_block_name;
use scale_ckpt::checkpoint::tensor::OpenFile;
use scale_ckpt::checkpoint::{Checkpoint, Dtype, Gpt2Config, save};
use scale_ckpt::durable::StagedDir;
use scale_ckpt::grower::{GROWTH_FILE, Grower, new_layers};
use scale_ckpt::growth::{Growth, GrowthPlan, Initializer, METHODS, Placement, Slot, plan_file};
use scale_ckpt::model::weights;
use serde_json::{Value, json};

const BLOCKS: usize = 4;

/// Every initializer, with parameters that change what it reads.
const INITIALIZERS: [&str; 16] = [
    "copy",
    "zero-residual",
    "identity",
    "random",
    "noisy",
    "noisy:noise=0",
    "interpolate",
    "interpolate:coefficient=0.3",
    "interpolate:coefficient=0",
    "interpolate:coefficient=1",
    "blend:weights={\"0\"=0.5, \"3\"=0.5}",
    "blend:weights={\"1\"=0.0, \"2\"=-1.5}",
    "scaled",
    "scaled:of=\"interpolate\", scale=0",
    "scaled:of=\"random\"",
    "scaled:scale=0, only=[\"ln_1\", \"ln_2\", \"attn\", \"mlp\"]",
];

/// A model of four tiny blocks, as a folder.
fn source(dir: &Path) -> Checkpoint {
    let config = Gpt2Config::new(11, 8, 8, BLOCKS, 2).unwrap();
    let model = weights::init(&config, BLOCKS, 3, &Device::flex()).unwrap();
    let named = weights::read_all(&model).unwrap();
    let staged = StagedDir::new(&dir.join("source"), false).unwrap();
    let tensors = weights::tensors_out(&named, Dtype::F32);
    save::save(&staged, &config, tensors, u64::MAX, &|_| {}).unwrap();
    Checkpoint::open_dir(&staged.publish().unwrap()).unwrap()
}

/// The same with every value of one block not a number, so that whatever reads it shows.
fn spoiled(source: &Checkpoint, dir: &Path, block: usize) -> Checkpoint {
    let out = dir.join(format!("without-{block}"));
    fs::create_dir(&out).unwrap();
    fs::copy(source.dir.join("config.json"), out.join("config.json")).unwrap();
    let mut file = fs::read(&source.weight_files()[0]).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    for (name, info) in metadata.tensors() {
        let name = name.strip_prefix("transformer.").unwrap_or(&name);
        if split_block_name(name).is_some_and(|(layer, _)| layer == block) {
            let (start, end) = info.data_offsets;
            let values = &mut file[8 + header..][start..end];
            for value in values.chunks_exact_mut(4) {
                value.copy_from_slice(&f32::NAN.to_le_bytes());
            }
        }
    }
    fs::write(out.join("model.safetensors"), file).unwrap();
    Checkpoint::open_dir(&out).unwrap()
}

/// The bytes of every block of the grown model.
fn grown(source: &Checkpoint, plan: &GrowthPlan) -> Vec<Vec<u8>> {
    let mut blocks = vec![Vec::new(); plan.n_layer()];
    for tensor in Growth::new(source, plan, 7).unwrap().tensors().unwrap() {
        let name = tensor
            .name
            .strip_prefix("transformer.")
            .unwrap_or(&tensor.name);
        let Some((layer, _)) = split_block_name(name) else {
            continue;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let out = OpenFile {
            path: file.path().to_owned(),
            file: file.reopen().unwrap(),
        };
        (tensor.append)(&out).unwrap();
        (&out.file).rewind().unwrap();
        blocks[layer].extend(fs::read(file.path()).unwrap());
    }
    blocks
}

struct Bench {
    _dir: tempfile::TempDir,
    whole: Checkpoint,
    spoiled: Vec<Checkpoint>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let whole = source(dir.path());
        let spoiled = (0..BLOCKS).map(|block| spoiled(&whole, dir.path(), block));
        Self {
            spoiled: spoiled.collect(),
            whole,
            _dir: dir,
        }
    }

    /// Spoils each source block in turn.
    fn check(&self, what: &str, plan: &GrowthPlan) {
        let right = grown(&self.whole, plan);
        for (block, without) in self.spoiled.iter().enumerate() {
            for (layer, bytes) in grown(without, plan).iter().enumerate() {
                let names = |layer: usize| {
                    let mut terms = plan.sources(layer).iter();
                    terms.any(|term| term.layer == block)
                };
                assert_eq!(
                    *bytes != right[layer],
                    names(layer),
                    "{what}: {plan}: block {layer}, without source block {block}"
                );
            }
        }
        for layer in plan.provenance() {
            assert!(layer.sources.iter().all(|term| term.weight != 0.0));
            assert_eq!(layer.source.is_some(), layer.sources.len() == 1);
        }
    }
}

#[test]
fn every_initializer_at_every_placement_names_what_it_reads() {
    let bench = Bench::new();
    let mut refused = BTreeSet::new();
    for init in INITIALIZERS {
        let parsed = Initializer::parse(init).unwrap();
        for placement in Placement::value_variants() {
            for to in [5, 6, 7, 9] {
                let map = placement.layer_map(BLOCKS, to);
                match GrowthPlan::from_map(BLOCKS, &map, &parsed) {
                    Ok(plan) => bench.check(&format!("{init} {placement:?}"), &plan),
                    Err(_) => drop(refused.insert((init, format!("{placement:?}"), to))),
                }
            }
        }
    }
    // Interpolation at the top, and nothing else, cannot be.
    assert!(
        refused
            .iter()
            .all(|(init, ..)| init.contains("interpolate"))
    );
    let with = |placement: &str| {
        let found = refused
            .iter()
            .filter(|(i, p, _)| *i == "interpolate" && p == placement);
        found.map(|(.., to)| *to).collect::<Vec<usize>>()
    };
    assert_eq!(
        (with("Top"), with("Stack")),
        (vec![5, 6, 7, 9], vec![5, 6, 7, 9])
    );
    assert_eq!(
        (with("Interleave"), with("Middle")),
        (vec![6, 7, 9], vec![9])
    );
    assert_eq!(with("Bottom"), [9]);
}

#[test]
fn every_method_names_what_it_reads() {
    let bench = Bench::new();
    for method in &METHODS {
        let plans: Vec<GrowthPlan> = (5..=12)
            .filter_map(|to| method.plan(BLOCKS, to).ok())
            .collect();
        assert!(!plans.is_empty(), "{}", method.name);
        for plan in plans {
            bench.check(method.name, &plan);
        }
    }
}

#[test]
fn every_plan_file_names_what_it_reads() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.toml");
    let interpolate = "init = { interpolate = { coefficient = 0.75 } }\n";
    for (text, shown) in [
        // Drawn below, interpolated in a run, copied at the top, a block dropped.
        (
            format!("[[slice]]\nlayers = [0, 1]\nkeep = false\ninit = \"random\"\n[[slice]]\nlayers = [0, 2]\n[[slice]]\nlayers = [0, 2]\n{interpolate}[[slice]]\nlayers = [3, 4]\nrepeat = 2\n"),
            "* 0 1 1+3* 1+3* 3 3*",
        ),
        // Kept blocks out of order: between 3 and 1 as they stand.
        (
            format!("[[slice]]\nlayers = [3, 4]\n[[slice]]\nlayers = [3, 4]\n{interpolate}[[slice]]\nlayers = [0, 3]\n"),
            "3 3+0* 0 1 2",
        ),
        // Nothing of the source is kept.
        (
            "[[slice]]\nlayers = [0, 3]\nkeep = false\ninit = { blend = { weights = { \"3\" = 1 } } }\n".to_owned(),
            "3* 3* 3*",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let plan = plan_file::load(&path, BLOCKS).unwrap();
        assert_eq!(plan.to_string(), shown);
        bench.check("plan file", &plan);
    }
}

#[test]
fn records_and_cards_say_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let grow = |init: &str| {
        let init = Initializer::parse(init).unwrap();
        let map = Placement::Middle.layer_map(BLOCKS, 6);
        let plan = GrowthPlan::from_map(BLOCKS, &map, &init).unwrap();
        let out = dir.path().join("out");
        let grower = Grower {
            source: &source,
            plan: &plan,
            seed: 1,
            probe: None,
            max_shard_bytes: u64::MAX,
            force: true,
        };
        grower.run(&out).unwrap();
        assert_eq!(new_layers(&out), BTreeSet::from([3, 4]));
        let record: Value =
            serde_json::from_slice(&fs::read(out.join(GROWTH_FILE)).unwrap()).unwrap();
        assert_eq!(record["layers"], json!(plan.provenance()));
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains(&plan.to_string()), "{card}");
        (record, card)
    };
    let (record, card) = grow("random");
    assert_eq!(
        record["layers"][3],
        json!({ "source": null, "sources": [], "init": { "random": {} } })
    );
    assert!(card.contains("0 1 2 * * 3"), "{card}");
    let (record, card) = grow("interpolate:coefficient=0.25");
    assert_eq!(
        record["layers"][3]["sources"],
        json!([{ "layer": 2, "weight": 0.75 }, { "layer": 3, "weight": 0.25 }])
    );
    assert_eq!(record["layers"][3]["source"], Value::Null);
    assert!(card.contains("0 1 2 2+3* 2+3* 3"), "{card}");
    let (record, _) = grow("zero-residual");
    assert_eq!(record["layers"][4]["source"], 2);
    assert_eq!(record["layers"][0]["init"], Value::Null);
}

/// The card of a growth with nothing new in it, or nothing old, says that and no more.
#[test]
fn cards_of_plans_without_new_or_kept_blocks_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let new = |source| Slot {
        source,
        init: Some(Initializer::parse("random").unwrap()),
    };
    let kept = |source| Slot { source, init: None };
    let all: Vec<usize> = (0..BLOCKS).collect();
    let reversed: Vec<Slot> = all.iter().rev().map(|&layer| kept(layer)).collect();
    let same: Vec<Slot> = all.iter().map(|&layer| kept(layer)).collect();
    let drawn: Vec<Slot> = all.iter().map(|&layer| new(layer)).collect();
    let deeper: Vec<Slot> = (0..BLOCKS + 1).map(|_| new(0)).collect();
    let mixed: Vec<Slot> = [&same[..BLOCKS - 1], &[new(0)]].concat();
    let (none, every, some) = (
        "No block is new",
        "All blocks are new",
        "New blocks: random.",
    );
    for (slots, title, told) in [
        (
            reversed,
            format!("its {BLOCKS} layers in another order"),
            none,
        ),
        (
            same.clone(),
            format!("unchanged with {BLOCKS} layers"),
            none,
        ),
        (
            same[1..].to_vec(),
            format!("cut from {BLOCKS} to {} layers", BLOCKS - 1),
            none,
        ),
        (
            drawn,
            format!("{BLOCKS} of {BLOCKS} layers made anew"),
            every,
        ),
        (
            deeper,
            format!("grown from {BLOCKS} to {} layers", BLOCKS + 1),
            every,
        ),
        (mixed, format!("1 of {BLOCKS} layers made anew"), some),
    ] {
        let plan = GrowthPlan::new(BLOCKS, slots).unwrap();
        let out = dir.path().join("out");
        let grower = Grower {
            source: &source,
            plan: &plan,
            seed: 1,
            probe: None,
            max_shard_bytes: u64::MAX,
            force: true,
        };
        grower.run(&out).unwrap();
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        let heading = card.lines().find(|line| line.starts_with("# ")).unwrap();
        assert!(heading.ends_with(&title), "{heading}");
        assert!(card.contains(told), "{card}");
        for (word, there) in [
            ("new ones", told != none),
            ("Seed", told != none),
            ("other blocks", told == some),
        ] {
            assert_eq!(card.contains(word), there, "{word}: {card}");
        }
    }
}

/// Records of the first format are still read.
#[test]
fn old_records_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let old = json!({ "schema": 1, "n_layer": 3, "layers": [
        { "source": 0, "init": null }, { "source": 0, "init": { "random": {} } }, { "source": 1, "init": null },
    ] });
    fs::write(dir.path().join(GROWTH_FILE), old.to_string()).unwrap();
    assert_eq!(new_layers(dir.path()), BTreeSet::from([1]));
}
