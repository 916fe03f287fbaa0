//! Checkpoints as people have them: what opens, with the numbers of `transformers`, and what is
//! named instead.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sandbox::{GROW, Sandbox, TOKENIZER, rows};
use scale_ckpt::checkpoint::{Checkpoint, layout};
use scale_ckpt::model::weights;
use serde_json::{Value, json};
use support::{Expected, assert_close, fixture};

/// As in `tests/parity.rs`: five times the error of PyTorch's own f32.
const LOGITS: f64 = 2e-5;

/// A tensor as it is stored.
#[derive(Clone, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes,
        }
    }

    fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        self.bytes.chunks_exact(4).map(value).collect()
    }

    fn as_bf16(&self) -> Self {
        let bits = |v: f32| half::bf16::from_f32(v).to_le_bytes();
        Self {
            dtype: Dtype::BF16,
            shape: self.shape.clone(),
            bytes: self.values().into_iter().flat_map(bits).collect(),
        }
    }
}

type State = HashMap<String, Stored>;

/// The tensors of a fixture's `model.safetensors`.
fn state(name: &str) -> State {
    let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (String, TensorView<'_>)| {
        let stored = Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        (name, stored)
    };
    file.tensors().into_iter().map(stored).collect()
}

fn renamed(state: &State, name: impl Fn(&str) -> String) -> State {
    let rename = |(key, tensor): (&String, &Stored)| (name(key), tensor.clone());
    state.iter().map(rename).collect()
}

fn save(state: &State, metadata: &[(&str, &str)], path: &Path) {
    let views = state.iter().map(|(name, t)| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap();
        (name, view)
    });
    let metadata = metadata.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
    let metadata = Some(metadata.collect()).filter(|m: &HashMap<_, _>| !m.is_empty());
    safetensors::serialize_to_file(views, metadata, path).unwrap();
}

/// A folder `./m` with these weights and the config of `gpt2-pico` after `change`.
fn folder(state: &State, change: impl FnOnce(&mut Value)) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    let config = fs::read(fixture("gpt2-pico/config.json")).unwrap();
    let mut config = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    sandbox.write("m/config.json", config.to_string());
    sandbox.write("m/tokenizer.json", TOKENIZER);
    save(state, &[], &sandbox.path("m/model.safetensors"));
    sandbox
}

/// A folder `./m` with the config of `fixtures/wrapped` and one of its files, under `name`.
fn wrapped(file: &str, name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    for (from, to) in [("config.json", "config.json"), (file, name)] {
        let from = fixture("wrapped").join(from);
        fs::copy(from, sandbox.path("m").join(to)).unwrap();
    }
    sandbox
}

/// Logits of a checkpoint, held against those of `transformers` in an `expected.safetensors`.
#[track_caller]
fn assert_logits(what: &str, checkpoint: &Checkpoint, expected: &str, name: &str) {
    let device = Device::flex();
    let expected = Expected::load(&fixture(expected).join("expected.safetensors"));
    let shape = expected.shape("input_ids").to_vec();
    let ids: Vec<i64> = expected
        .values("input_ids")
        .iter()
        .map(|&x| x as i64)
        .collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, shape), &device);
    let logits = weights::load(checkpoint, &device).unwrap().logits(ids);
    let found = weights::to_host(logits).unwrap();
    assert_close(what, found.as_slice(), expected.values(name), LOGITS);
}

const PICO: &str = "gpt2-pico";
const UNTIED: &str = "gpt2-variants/untied";
const NOTE: &str = "lm_head.weight differs from wte.weight";

/// Grows `./m` and checks that the copy has the same logits, and nothing to say of itself.
fn assert_grows(what: &str, sandbox: &Sandbox, expected: &str, name: &str) -> Checkpoint {
    sandbox
        .run("grow ./m --to 4 --out out")
        .expect(0, &["exact"]);
    let grown = Checkpoint::open_dir(&sandbox.path("out")).unwrap();
    assert!(grown.notes.is_empty(), "{:?}", grown.notes);
    assert_logits(what, &grown, expected, name);
    grown
}

#[test]
fn a_head_of_its_own_is_kept_whatever_the_config_says() {
    let own = state(UNTIED);
    let bare = renamed(&own, |name| {
        name.trim_start_matches("transformer.").to_owned()
    });
    let within = renamed(&own, |name| {
        let prefix = if name.starts_with("lm_head") {
            "transformer."
        } else {
            ""
        };
        format!("{prefix}{name}")
    });
    let wrapped = renamed(&own, |name| format!("module.{name}"));
    for (what, state) in [
        ("named", &own),
        ("bare", &bare),
        ("within", &within),
        ("wrapped", &wrapped),
    ] {
        for tie in [json!(true), Value::Null] {
            let sandbox = folder(state, |config| config["tie_word_embeddings"] = tie.clone());
            let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
            assert!(!checkpoint.config.tie_word_embeddings);
            assert!(checkpoint.notes.iter().any(|note| note.contains(NOTE)));
            assert_eq!(layout::parameter_count(&checkpoint.config), 29_568 + 2_048);
            assert_logits(what, &checkpoint, UNTIED, "logits");
            let grown = assert_grows(what, &sandbox, UNTIED, "logits");
            assert!(!grown.config.tie_word_embeddings);
            let config: Value = serde_json::from_slice(&sandbox.read("out/config.json")).unwrap();
            assert_eq!(config["tie_word_embeddings"], false);
        }
    }
}

#[test]
fn commands_say_that_a_head_is_kept_and_count_it() {
    let sandbox = folder(&state(UNTIED), |config| {
        config["tie_word_embeddings"] = json!(true)
    });
    let warning = format!("warning: ./m: {NOTE}");
    let shown = sandbox.run("inspect ./m").expect(0, &[&warning]).stdout;
    assert!(
        shown.contains("separate head") && shown.contains("31,616 parameters"),
        "{shown}"
    );
    sandbox.run(GROW).expect(0, &[&warning]);
    let diff = sandbox
        .run("diff ./m out --all")
        .expect(0, &[&warning])
        .stdout;
    let same = |line: &str| line.starts_with("lm_head.weight") && line.ends_with("same");
    assert!(diff.lines().any(same), "{diff}");
    sandbox.run("logits ./m --out l").expect(0, &[&warning]);
    // Training keeps it as well, and what it writes says so.
    let tokens = fs::read(fixture("train-100/tokens.bin")).unwrap();
    sandbox.write("tokens.bin", tokens);
    sandbox.write(
        "r.toml",
        "out = \"run\"\n[model]\nfrom = \"./m\"\n[data]\ntrain = [\"tokens.bin\"]\nval = [\"tokens.bin\"]\n[train]\ntokens = 128\nbatch_tokens = 64\ncontext = 32\nlr = 1e-3\n",
    );
    sandbox.run("train r.toml").expect(0, &[&warning]);
    let trained = Checkpoint::open_dir(&sandbox.path("run/step-00000002")).unwrap();
    assert!(!trained.config.tie_word_embeddings && trained.notes.is_empty());
    assert!(
        !trained
            .tensor("lm_head.weight")
            .unwrap()
            .same_values(
                Checkpoint::open_dir(&sandbox.path("m"))
                    .unwrap()
                    .tensor("lm_head.weight")
                    .unwrap()
            )
            .unwrap()
    );
}

#[test]
fn equal_heads_are_tied_in_any_type_and_others_are_not() {
    let mut state = state(PICO);
    let wte = state["transformer.wte.weight"].clone();
    let values = wte.values();
    let with = |at: usize, value: f32| {
        let mut changed = values.clone();
        changed[at] = value;
        Stored::f32(&wte.shape, changed)
    };
    let exact: Vec<f32> = values
        .iter()
        .map(|&v| half::bf16::from_f32(v).to_f32())
        .collect();
    let exact = Stored::f32(&wte.shape, exact);
    let nan = with(7, f32::NAN);
    for (what, wte, head, tied) in [
        ("equal", &wte, wte.clone(), true),
        ("another type", &exact, exact.as_bf16(), true),
        ("its type reversed", &exact.as_bf16(), exact.clone(), true),
        ("rounded", &wte, wte.as_bf16(), false),
        ("signs of zero", &with(3, 0.0), with(3, -0.0), true),
        ("NaN in both", &nan, nan.clone(), true),
        ("NaN in one", &wte, nan.clone(), false),
        ("the last value", &wte, with(values.len() - 1, 9.0), false),
    ] {
        state.insert("transformer.wte.weight".to_owned(), wte.clone());
        state.insert("lm_head.weight".to_owned(), head);
        let sandbox = folder(&state, |_| {});
        let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
        assert_eq!(checkpoint.config.tie_word_embeddings, tied, "{what}");
        assert_eq!(checkpoint.notes.is_empty(), tied, "{what}");
    }
}

#[test]
fn a_head_in_another_file_or_a_pickle_counts_as_well() {
    let sandbox = folder(&State::new(), |_| {});
    fs::remove_file(sandbox.path("m/model.safetensors")).unwrap();
    let own = state(UNTIED);
    let files = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let file_of = |name: &str| files[usize::from(name == "lm_head.weight")];
    for file in files {
        let part = own.iter().filter(|(name, _)| file_of(name) == file);
        let part: State = part.map(|(n, t)| (n.clone(), t.clone())).collect();
        save(&part, &[], &sandbox.path("m").join(file));
    }
    let map: Value = own
        .keys()
        .map(|n| (n.clone(), json!(file_of(n))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let index = json!({"metadata": {"by": "\u{fffd}"}, "weight_map": map}).to_string();
    // Half a surrogate pair where it does not matter.
    sandbox.write(
        "m/model.safetensors.index.json",
        index.replace('\u{fffd}', "\\udc80"),
    );
    let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
    assert!(!checkpoint.config.tie_word_embeddings);
    assert_logits("shards", &checkpoint, UNTIED, "logits");

    let sandbox = wrapped("own_head.bin", "pytorch_model.bin");
    let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
    assert!(!checkpoint.config.tie_word_embeddings);
    assert_logits("pickle", &checkpoint, "wrapped", "own_logits");
    assert_grows("pickle", &sandbox, "wrapped", "own_logits");
}

#[test]
fn what_the_language_model_does_not_use_is_named() {
    for (class, name, words) in [
        (
            "GPT2ForSequenceClassification",
            "score.weight",
            "a GPT2ForSequenceClassification, read and written",
        ),
        (
            "GPT2DoubleHeadsModel",
            "multiple_choice_head.summary.weight",
            "a GPT2DoubleHeadsModel, read",
        ),
        ("OddGPT", "gate.weight", "its class OddGPT is unknown"),
        (
            "GPT2LMHeadModel",
            "lm_head.bias",
            "no place for lm_head.bias",
        ),
    ] {
        let mut state = state(PICO);
        state.insert(name.to_owned(), Stored::f32(&[2], [1.0, 2.0]));
        let sandbox = folder(&state, |config| config["architectures"] = json!([class]));
        let place = format!("no place for {name}");
        sandbox.run(GROW).expect(0, &[words, &place]);
        let config: Value = serde_json::from_slice(&sandbox.read("out/config.json")).unwrap();
        let written = if class == "OddGPT" {
            class
        } else {
            "GPT2LMHeadModel"
        };
        assert_eq!(config["architectures"], json!([written]));
    }
}

#[test]
fn one_matrix_under_the_name_of_the_head_is_both() {
    let sandbox = wrapped("save_model.safetensors", "model.safetensors");
    let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
    assert!(checkpoint.config.tie_word_embeddings && checkpoint.notes.is_empty());
    assert_logits("save_model", &checkpoint, "wrapped", "logits");
    let grown = assert_grows("save_model", &sandbox, "wrapped", "logits");
    let file = fs::read(&grown.weight_files()[0]).unwrap();
    let names = SafeTensors::deserialize(&file).unwrap();
    assert!(names.tensor("transformer.wte.weight").is_ok());
    assert!(names.tensor("lm_head.weight").is_err());

    let bare = renamed(&state(PICO), |name| {
        name.replace("transformer.wte.weight", "lm_head.weight")
    });
    let sandbox = folder(&bare, |_| {});
    let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
    assert_logits("without metadata", &checkpoint, PICO, "logits");
    // Where the config does not tie them, nothing says what wte is.
    let sandbox = folder(&bare, |config| config["tie_word_embeddings"] = json!(false));
    sandbox.refuses(GROW, 3, &["tensor `wte.weight` is missing"]);

    // Any tensor may be an alias, under a wrapper's prefix as well.
    let mut shared = renamed(&state(PICO), |name| format!("module.{name}"));
    let gain = "module.transformer.h.1.ln_1.weight";
    let ones = Stored::f32(&[32], [1.0; 32]);
    shared.insert("module.transformer.h.0.ln_1.weight".to_owned(), ones);
    shared.remove(gain);
    let alias = [
        ("format", "pt"),
        (gain, "module.transformer.h.0.ln_1.weight"),
    ];
    save(&shared, &alias, &sandbox.path("m/model.safetensors"));
    sandbox.write(
        "m/config.json",
        fs::read(fixture("gpt2-pico/config.json")).unwrap(),
    );
    let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
    let read = checkpoint
        .tensor("h.1.ln_1.weight")
        .unwrap()
        .read()
        .unwrap();
    assert_eq!(read.as_slice(), [1.0; 32]);
}

#[test]
fn prefixes_of_wrappers_are_left_out_and_said() {
    let pico = state(PICO);
    let bare = |name: &str| name.trim_start_matches("transformer.").to_owned();
    for (prefix, said) in [
        ("_orig_mod.", "`_orig_mod.`"),
        ("module.", "`module.`"),
        ("model.", "`model.`"),
        ("module._orig_mod.", "`module.` and `_orig_mod.`"),
        (
            "_forward_module.net.gpt.",
            "`net.gpt.` and `_forward_module.`",
        ),
        ("base_model.model.", "`base_model.model.`"),
    ] {
        for state in [
            renamed(&pico, |name| format!("{prefix}{name}")),
            renamed(&pico, |name| format!("{prefix}{}", bare(name))),
        ] {
            let sandbox = folder(&state, |_| {});
            let said = format!("warning: ./m: the names of tensors are read without {said}");
            sandbox.run("inspect ./m").expect(0, &[&said]);
            let checkpoint = Checkpoint::open_dir(&sandbox.path("m")).unwrap();
            assert_logits(prefix, &checkpoint, PICO, "logits");
        }
    }
    let within = renamed(&pico, |name| {
        name.replace(".h.1.", ".h.1._checkpoint_wrapped_module.")
    });
    let sandbox = folder(&within, |_| {});
    assert_grows("within", &sandbox, PICO, "logits");

    let some = renamed(&pico, |name| {
        let prefix = if name.contains("mlp") { "module." } else { "" };
        format!("{prefix}{name}")
    });
    let words = [
        "`h.0.mlp.c_fc.weight` is missing",
        "`module.transformer.h.0.mlp.c_fc.weight`",
        "hint: a prefix",
    ];
    folder(&some, |_| {}).refuses(GROW, 3, &words);
    let mut two = renamed(&pico, |name| format!("ema.{name}"));
    two.extend(renamed(&pico, |name| format!("model.{name}")));
    folder(&two, |_| {}).refuses(
        GROW,
        3,
        &["several models", "`ema.` and `model.`", "hint: save"],
    );
}

#[test]
fn dictionaries_around_the_weights_are_opened() {
    for (file, name, said, left) in [
        (
            "lightning.ckpt",
            "last.ckpt",
            "`state_dict.model.`",
            "optimizer_states.0.state.0.exp_avg",
        ),
        (
            "training.pt",
            "step.pt",
            "`model.module.`",
            "optimizer.state.0.exp_avg",
        ),
        (
            "training.pt",
            "pytorch_model.bin",
            "`model.module.`",
            "optimizer.state.0.step",
        ),
    ] {
        let sandbox = wrapped(file, name);
        let said = format!("the names of tensors are read without {said}");
        sandbox
            .run(&format!("inspect m/{name}"))
            .expect(0, &[&said, "no place for", left]);
        let checkpoint = Checkpoint::open_file(&sandbox.path("m").join(name)).unwrap();
        assert_logits(file, &checkpoint, "wrapped", "logits");
    }
}

#[test]
fn configs_as_python_writes_them_open_and_are_written_again() {
    let sandbox = folder(&state(PICO), |_| {});
    let config = String::from_utf8(sandbox.read("m/config.json")).unwrap();
    let odd = r#", "n_ctx": 7, "f": 12345678901234567890123, "initializer_range": NaN, "a": [Infinity, -Infinity, {"__float__": "NaN"}], "b\ud800": "\udfff \ud83d\ude00"}"#;
    sandbox.write(
        "m/config.json",
        config.trim_end().trim_end_matches('}').to_owned() + odd,
    );
    assert_grows("config", &sandbox, PICO, "logits");
    let written = String::from_utf8(sandbox.read("out/config.json")).unwrap();
    for part in [
        "\"n_ctx\": 7",
        "\"initializer_range\": NaN",
        "Infinity,\n    -Infinity,",
        "\"__float__\": \"NaN\"",
        "\"b\\ud800\": \"\\udfff \u{1f600}\"",
        "\"f\": 12345678901234567890123,",
    ] {
        assert!(written.contains(part), "{part} is not in {written}");
    }
    let shown = sandbox.run("inspect ./m --json").expect(0, &[]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["config"]["a"][1], "-Infinity");
    assert_eq!(shown["config"]["f"], 1.234_567_890_123_456_8e22);
    // Weights drawn from scratch have the usual spread then.
    let random = "grow ./m --to 3 --init random --placement top --out other";
    sandbox.run(random).expect(0, &[]);
    let drawn = Checkpoint::open_dir(&sandbox.path("other")).unwrap();
    assert!(drawn.non_finite().unwrap().is_empty());
}

#[test]
fn configs_that_do_not_open_say_why() {
    let sandbox = folder(&state(PICO), |_| {});
    let good = sandbox.read("m/config.json");
    let with = |key: &str, value: &str| {
        let text = String::from_utf8(good.clone()).unwrap();
        let rest = text.trim_end().trim_end_matches('}').to_owned();
        format!("{rest}, \"{key}\": {value}}}").into_bytes()
    };
    for (bytes, words) in [
        (
            [b"\xef\xbb\xbf", &good[..]].concat(),
            &["byte order mark", "hint: save it as UTF-8"][..],
        ),
        (b"\xff\xfe{\0}\0".to_vec(), &["UTF-16"]),
        (b" \n".to_vec(), &["the file is empty"]),
        (
            b"<!DOCTYPE html><html>".to_vec(),
            &["hint: this is a web page"],
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            &["hint: this is a Git LFS pointer"],
        ),
        (
            with("n_layer", "NaN"),
            &["`n_layer`: expected an integer", "found NaN"],
        ),
        (
            with("layer_norm_epsilon", "Infinity"),
            &["`layer_norm_epsilon`: expected a positive number, found Infinity"],
        ),
        (
            with("activation_function", "\"\\ud800\""),
            &["`activation_function`: `\\ud800` is not supported"],
        ),
        (
            with("activation_function", "NaN"),
            &["`activation_function`: expected a string, found NaN"],
        ),
        (
            with("quantization_config", "{}"),
            &["quantized", "hint: take the checkpoint"],
        ),
    ] {
        sandbox.write("m/config.json", bytes);
        sandbox.refuses(GROW, 3, &[words, &["error: ./m/config.json"]].concat());
    }
    // `n_ctx` is no name for it in transformers.
    let mut config: Value = serde_json::from_slice(&good).unwrap();
    config.as_object_mut().unwrap().remove("n_positions");
    config["n_ctx"] = json!(64);
    sandbox.write("m/config.json", config.to_string());
    sandbox.refuses(
        GROW,
        3,
        &[
            "`wpe.weight` is [64, 32], expected [1024, 32]",
            "hint: for these weights n_positions in config.json would be 64",
        ],
    );
}

#[test]
fn folders_are_found_by_their_plain_names() {
    let sandbox = folder(&state(PICO), |_| {});
    fs::create_dir(sandbox.path("org")).unwrap();
    fs::rename(sandbox.path("m"), sandbox.path("org/m")).unwrap();
    // The network is off: only a local folder can answer.
    sandbox.run("grow org/m --to 3").expect(0, &[]);
    sandbox.run("inspect m-3l").expect(0, &[]);
    sandbox
        .run("inspect org/m/model.safetensors")
        .expect(0, &[]);
    sandbox.refuses(
        "inspect hf://org/m",
        4,
        &["org/m@main: it is not in the cache"],
    );
    sandbox.refuses(
        "inspect org",
        3,
        &[
            "org: no config.json there",
            "name one, as org/m",
            "on the hub is hf://org",
        ],
    );
    sandbox.refuses("inspect org/n", 4, &["in the folder org there is no `n`"]);
    sandbox.refuses(
        "inspect n",
        4,
        &["where a local folder is meant, check its path"],
    );
    sandbox.refuses(
        "inspect ./n",
        3,
        &["./n: there is no such folder", "hint: check the path"],
    );
    sandbox.refuses(
        "inspect org/m/x.safetensors",
        3,
        &["org/m/x.safetensors: there is no such file"],
    );
    sandbox.refuses(
        "inspect org/m/config.json",
        3,
        &["this is JSON, not weights"],
    );
}

#[test]
fn addresses_of_the_hub_are_read_as_ids() {
    let sandbox = Sandbox::new();
    let table = "
https://huggingface.co/gpt2 | 4 | gpt2@main
https://huggingface.co/openai-community/gpt2/tree/main | 4 | openai-community/gpt2@main
huggingface.co/openai-community/gpt2/ | 4 | openai-community/gpt2@main
https://huggingface.co/gpt2/blob/main/model.safetensors | 4 | gpt2@main
https://hf.co/org/name/tree/v2 | 4 | org/name@v2
https://huggingface.co/datasets/org/name | 2 | a page of the hub's datasets
https://example.org/gpt2 | 2 | another host
https://huggingface.co/org/na..me | 2 | not a hub id
";
    for row in rows(table) {
        let code = row[1].parse().unwrap();
        sandbox.refuses(&format!("inspect {}", row[0]), code, &[row[2], "hint: "]);
    }
}

#[test]
fn tensors_tell_what_a_file_is() {
    for (file, name, words) in [
        (
            "nanogpt.pt",
            "ckpt.pt",
            &[
                "layout of nanoGPT",
                "`h.0.attn.c_attn.weight` is [24, 8], in transformers it is [8, 24]",
                "hint: convert it in Python",
                "transposed",
            ][..],
        ),
        ("nanogpt.pt", "pytorch_model.bin", &["layout of nanoGPT"]),
        (
            "zero3.bin",
            "pytorch_model.bin",
            &[
                "has no values",
                "ZeRO-3",
                "hint: put the weights together with zero_to_fp32.py",
            ],
        ),
        (
            "adapter/adapter_model.safetensors",
            "model.safetensors",
            &["lora_A.weight` belongs to a PEFT adapter", "hint: merge it"],
        ),
        (
            "lora_on_model.safetensors",
            "model.safetensors",
            &["belongs to a PEFT adapter", "hint: merge it"],
        ),
    ] {
        let sandbox = wrapped(file, name);
        let refuses = |sandbox: &Sandbox, what: &str| {
            sandbox.refuses(&format!("inspect {what}"), 3, words);
        };
        refuses(&sandbox, &format!("./m/{name}"));
        refuses(&sandbox, "./m");
        fs::remove_file(sandbox.path("m/config.json")).unwrap();
        refuses(&sandbox, "./m");
        refuses(&sandbox, &format!("m/{name}"));
    }
    let pico = state(PICO);
    let c_attn = "transformer.h.1.attn.c_attn.weight";
    let with = |name: &str, tensor: Stored| {
        let mut state = pico.clone();
        state.insert(name.to_owned(), tensor);
        state
    };
    let small = |dtype, shape: &[usize]| Stored {
        dtype,
        shape: shape.to_vec(),
        bytes: vec![0; shape.iter().product()],
    };
    let empty = Stored::f32(&[0], []);
    let alien = HashMap::from([(
        "model.layers.0.mlp.up_proj.weight".to_owned(),
        Stored::f32(&[1], [0.0]),
    )]);
    let tall = Stored::f32(&[70, 32], vec![0.0; 70 * 32]);
    for (state, words) in [
        (
            with(c_attn, small(Dtype::I8, &[32, 96])),
            &[
                "`h.1.attn.c_attn.weight` belongs to quantized weights",
                "hint: take",
            ][..],
        ),
        (
            with(c_attn, small(Dtype::F8_E4M3, &[32, 96])),
            &["quantized weights"],
        ),
        (
            with(
                c_attn,
                Stored {
                    dtype: Dtype::F64,
                    shape: vec![1],
                    bytes: vec![0; 8],
                },
            ),
            &["is F64; F32, F16 and BF16", "hint: convert"],
        ),
        (with(c_attn, empty), &["has no values: a placeholder"]),
        (
            with("lm_head.weight", Stored::f32(&[0], [])),
            &["`lm_head.weight` has no values: a placeholder"],
        ),
        (
            with("lm_head.weight", tall.clone()),
            &[
                "`lm_head.weight` is [70, 32]",
                "hint: the head is made for another vocabulary",
            ],
        ),
        (
            with("lm_head.weight", small(Dtype::I8, &[64, 32])),
            &["`lm_head.weight` belongs to quantized weights"],
        ),
        (
            with("transformer.wte.weight", tall),
            &["hint: for these weights vocab_size in config.json would be 70"],
        ),
        (
            alien,
            &[
                "none of its 1 tensors",
                "`model.layers.0.mlp.up_proj.weight`",
                "another architecture",
            ],
        ),
    ] {
        folder(&state, |_| {}).refuses(GROW, 3, words);
    }
}

#[test]
fn files_tell_what_a_folder_is() {
    let table = "
adapter_model.bin | a PEFT adapter, not a whole model | hint: merge it
tf_model.h5 | weights of TensorFlow | from_tf=True
flax_model.msgpack | weights of Flax | from_flax=True
gpt2.Q4_K_M.gguf | a GGUF file | gguf_file
decoder_model.onnx | an ONNX export | exported from
model.ckpt.index | a checkpoint of TensorFlow | transformers-cli convert
model-00001-of-00002.safetensors | a shard without the index | hint: fetch or copy
zero_to_fp32.py | a checkpoint of DeepSpeed | hint: put its weights together
__0_0.distcp | a sharded checkpoint of torch.distributed | dcp_to_torch
";
    for row in rows(table) {
        for config in [true, false] {
            let sandbox = Sandbox::new();
            fs::create_dir(sandbox.path("m")).unwrap();
            sandbox.write(&format!("m/{}", row[0]), "x");
            if config {
                sandbox.write("m/config.json", "{}");
            }
            sandbox.refuses(
                GROW,
                3,
                &[&row[..], &["./m: neither model.safetensors"]].concat(),
            );
        }
    }
    // Processes that share the work write into a folder of their own.
    for (name, words) in [
        (
            "pytorch_model_fsdp_0/__0_0.distcp",
            ["torch.distributed", "accelerate merge-weights"],
        ),
        (
            "global_step5/mp_rank_00_model_states.pt",
            ["DeepSpeed", "zero_to_fp32.py"],
        ),
    ] {
        for config in [true, false] {
            let sandbox = Sandbox::new();
            let (below, _) = name.split_once('/').unwrap();
            fs::create_dir_all(sandbox.path("m").join(below)).unwrap();
            sandbox.write(&format!("m/{name}"), "x");
            if config {
                sandbox.write("m/config.json", "{}");
            }
            sandbox.refuses(GROW, 3, &[&words[..], &[name]].concat());
        }
    }
    // Beside a whole model, too: transformers would put the adapter on it.
    let sandbox = folder(&state(PICO), |_| {});
    sandbox.write("m/adapter_config.json", "{}");
    sandbox.refuses(
        GROW,
        3,
        &["./m: it has adapter_config.json", "hint: merge it"],
    );
    // Weights under another name are opened by it.
    fs::remove_file(sandbox.path("m/adapter_config.json")).unwrap();
    fs::rename(
        sandbox.path("m/model.safetensors"),
        sandbox.path("m/best.safetensors"),
    )
    .unwrap();
    sandbox.refuses(
        GROW,
        3,
        &["no weights under their usual names", "./m/best.safetensors"],
    );
    sandbox.run("inspect ./m/best.safetensors").expect(0, &[]);
}

#[test]
fn first_bytes_tell_what_a_file_is() {
    let torch = fs::read(fixture("wrapped/training.pt")).unwrap();
    let sound = fs::read(fixture("gpt2-pico/model.safetensors")).unwrap();
    let llmc = [
        &20_240_326_u32.to_le_bytes()[..],
        &3_u32.to_le_bytes(),
        &[0; 1016],
    ]
    .concat();
    let tar = |name: &str| {
        let mut bytes = vec![0; 1024];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[257..262].copy_from_slice(b"ustar");
        bytes
    };
    let zip = |name: &str| [b"PK\x03\x04".as_slice(), name.as_bytes(), b"PK\x05\x06"].concat();
    let cut_zip = [b"PK\x03\x04".as_slice(), b"a/data.pkl"].concat();
    let number = |value: u8| [b"\x80\x04}\x94\x8c\x01a\x94K".as_slice(), &[value], b"s."].concat();
    let cases: [(&str, &[u8], &[&str]); 26] = [
        (
            "model.safetensors",
            b"\x1f\x8b\x08\x08\x99",
            &["packed with gzip", "gunzip"],
        ),
        ("pytorch_model.bin", b"\x1f\x8b\x08", &["packed with gzip"]),
        (
            "model.safetensors",
            b"\x28\xb5\x2f\xfd\0\0\0\0\0",
            &["packed, with"],
        ),
        (
            "pytorch_model.bin",
            &tar("model/x"),
            &["a tar archive", "tar -xf"],
        ),
        (
            "pytorch_model.bin",
            &tar("storages"),
            &["not a readable PyTorch file"],
        ),
        (
            "pytorch_model.bin",
            &zip("arr_0.npy"),
            &["an archive of NumPy", "safetensors.numpy"],
        ),
        (
            "model.safetensors",
            &zip("arr_0.npy"),
            &["an archive of NumPy"],
        ),
        (
            "pytorch_model.bin",
            b"\x93NUMPY\x01\0",
            &["an array of NumPy"],
        ),
        (
            "pytorch_model.bin",
            &zip("m/data.pkl m/code/a.py m/constants.pkl"),
            &["TorchScript", "torch.jit.load"],
        ),
        (
            "pytorch_model.bin",
            &zip("notes.txt"),
            &["a zip archive, not a file of torch.save"],
        ),
        (
            "pytorch_model.bin",
            &cut_zip,
            &["not a readable PyTorch file", "the file is damaged"],
        ),
        (
            "model.safetensors",
            b"\x81\xabtransformer\x82\xa1h\x81",
            &["weights of Flax", "from_flax=True"],
        ),
        (
            "pytorch_model.bin",
            &number(1),
            &["there is no tensor in it", "save_pretrained"],
        ),
        (
            "model.safetensors",
            "# Тренировка модели\n[model]\nfrom = \"./m\"\n".as_bytes(),
            &["the recipe of a run, not weights", "scale-ckpt train"],
        ),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid",
            &["a Git LFS pointer", "git lfs pull"],
        ),
        (
            "pytorch_model.bin",
            b"version https://git-lfs.github.com/spec/v1\noid",
            &["a Git LFS pointer", "git lfs pull"],
        ),
        (
            "model.safetensors",
            b"\n<!doctype html>\n<html>",
            &["a web page", "/resolve/"],
        ),
        (
            "pytorch_model.bin",
            b"<html><body>",
            &["a web page", "/resolve/"],
        ),
        (
            "model.safetensors",
            br#"{"error":"Repository not found"}"#,
            &["JSON, not weights"],
        ),
        (
            "model.safetensors",
            b"Entry not found",
            &["a text file, not weights"],
        ),
        (
            "model.safetensors",
            b"GGUF\x03\0\0\0\0\0\0\0",
            &["a GGUF file"],
        ),
        (
            "pytorch_model.bin",
            b"\x89HDF\r\n\x1a\n\0\0",
            &["an HDF5 file", "TensorFlow"],
        ),
        (
            "pytorch_model.bin",
            &llmc,
            &["a checkpoint of llm.c", "export_hf.py"],
        ),
        (
            "model.safetensors",
            &torch,
            &["a PyTorch file under", "rename it to pytorch_model.bin"],
        ),
        (
            "pytorch_model.bin",
            &sound,
            &["a safetensors file under", "rename it to model.safetensors"],
        ),
        (
            "pytorch_model.bin",
            b"",
            &["not a readable PyTorch file", "hint: the file is damaged"],
        ),
    ];
    for (name, bytes, words) in cases {
        let sandbox = wrapped("config.json", "x");
        sandbox.write(&format!("m/{name}"), bytes);
        let named = format!("error: ./m/{name}: ");
        sandbox.refuses(GROW, 3, &[words, &[named.as_str(), "hint: "]].concat());
    }
}

#[test]
fn settings_and_other_files_are_named_where_a_model_is_meant() {
    let sandbox = Sandbox::new();
    for (name, text, words) in [
        (
            "r.toml",
            "out = \"run\"\n[model]\nfrom = \"./m\"\n",
            [
                "this is the recipe of a run, not weights",
                "scale-ckpt train r.toml",
            ],
        ),
        (
            "c.toml",
            "budget = 5\n[[arm]]\nname = \"a\"\n",
            [
                "this is a comparison, not weights",
                "scale-ckpt compare c.toml",
            ],
        ),
        (
            "p.toml",
            "[[slice]]\nfrom = 0\n",
            ["this is a plan file", "grow MODEL --plan p.toml"],
        ),
        (
            "x.toml",
            "a = 1\n",
            ["a text file, not weights", "look into it"],
        ),
        (
            "flax_model.msgpack",
            "\u{1}\u{2}",
            ["weights of Flax", "from_flax=True"],
        ),
    ] {
        sandbox.write(name, text);
        for command in [
            format!("inspect {name}"),
            format!("grow {name} --to 4 --out out"),
        ] {
            sandbox.refuses(&command, 3, &words);
        }
    }
}

#[test]
fn folders_that_this_program_fills_are_named() {
    let sandbox = Sandbox::new();
    let marker = |kind: &str| {
        json!({"schema": 1, "tool": "scale-ckpt", "tool_version": "0", "kind": kind}).to_string()
    };
    let checkpoint = |at: &str| {
        fs::create_dir_all(sandbox.path(at)).unwrap();
        sandbox.write(&format!("{at}/config.json"), "{}");
        let state = json!({"recipe_sha256": "", "data_sha256": "", "optimizer_steps": {}});
        sandbox.write(&format!("{at}/trainer_state.json"), state.to_string());
    };
    fs::create_dir_all(sandbox.path("runs/q/grown")).unwrap();
    sandbox.write("runs/q/.scale-ckpt.json", marker("run"));
    sandbox.write("runs/q/grown/config.json", "{}");
    sandbox.refuses(
        "inspect runs/q",
        3,
        &["the folder of a run, which has no checkpoint yet", "hint: "],
    );
    checkpoint("runs/q/step-00000002");
    checkpoint("runs/q/step-00000010");
    for command in ["inspect runs/q", "grow ./runs/q --to 4 --out out"] {
        let said = sandbox.run(command).expect(
            3,
            &[
                "this is the folder of a run; its last checkpoint is ",
                "runs/q/step-00000010",
            ],
        );
        assert!(!said.stderr.contains("hf://"), "{}", said.stderr);
    }
    sandbox.write("runs/.scale-ckpt.json", marker("comparison"));
    let said = sandbox.run("inspect runs").expect(
        3,
        &[
            "it is the folder of a comparison",
            "as runs/q/step-00000010",
        ],
    );
    assert!(!said.stderr.contains("hf://"), "{}", said.stderr);
}

/// As `transformers`, which loads what the index names.
#[test]
fn the_index_says_which_of_two_tensors_counts() {
    let all = state(PICO);
    let sandbox = folder(&all, |_| {});
    fs::remove_file(sandbox.path("m/model.safetensors")).unwrap();
    let (a, b) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );
    let twice = all
        .keys()
        .find(|name| name.ends_with("ln_f.bias"))
        .unwrap()
        .clone();
    let mut wrong = state(PICO);
    wrong.retain(|name, _| *name == twice);
    let zeros = wrong.get_mut(&twice).unwrap();
    zeros.bytes.fill(0x40);
    save(&wrong, &[], &sandbox.path("m").join(a));
    save(&all, &[], &sandbox.path("m").join(b));
    let index = |file: &str| {
        let mut map: serde_json::Map<String, Value> =
            all.keys().map(|name| (name.clone(), b.into())).collect();
        map.insert(twice.clone(), file.into());
        // Every file is named by some tensor, be it one that no file has.
        map.insert("other".into(), a.into());
        sandbox.write(
            "m/model.safetensors.index.json",
            json!({"weight_map": map}).to_string(),
        );
        Checkpoint::open_dir(&sandbox.path("m")).unwrap()
    };
    let value = |checkpoint: &Checkpoint| {
        let tensor = checkpoint.tensor("ln_f.bias").unwrap().read().unwrap();
        tensor.as_slice().to_vec()
    };
    assert_eq!(value(&index(b)), all[&twice].values());
    assert_eq!(value(&index(a)), wrong[&twice].values());
    // An index that names neither leaves it open.
    let mut map: Value =
        serde_json::from_slice(&sandbox.read("m/model.safetensors.index.json")).unwrap();
    map["weight_map"]
        .as_object_mut()
        .unwrap()
        .shift_remove(&twice);
    sandbox.write("m/model.safetensors.index.json", map.to_string());
    sandbox.refuses(GROW, 3, &["tensor `ln_f.bias` occurs twice"]);
    sandbox.write("m/model.safetensors.index.json", r#"{"weight_map": {}}"#);
    sandbox.refuses(GROW, 3, &["its `weight_map` is empty"]);
}
