//! Every shipped recipe parses and is consistent.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use scale_ckpt::recipe::{self, ModelSource};

#[test]
fn every_shipped_recipe_is_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let recipe = recipe::load(&path, &[])
            .unwrap_or_else(|e| panic!("{e}"))
            .recipe;
        let (n_positions, n_layer) = match &recipe.model {
            ModelSource::From(name) if name == "gpt2" => (1024, 12),
            ModelSource::From(name) => {
                let config = scale_ckpt::checkpoint::Gpt2Config::load(
                    &Path::new(env!("CARGO_MANIFEST_DIR"))
                        .join(name)
                        .join("config.json"),
                )
                .unwrap();
                (config.n_positions, config.n_layer)
            }
            ModelSource::Scratch(scratch) => (scratch.n_positions, scratch.n_layer),
        };
        recipe
            .train
            .check(n_positions)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if let Some(grow) = &recipe.grow {
            grow.resolve(n_layer).unwrap();
        }
        seen += 1;
    }
    assert!(seen >= 3);
}
