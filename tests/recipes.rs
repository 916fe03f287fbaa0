//! Every shipped recipe parses and is consistent.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use scale_ckpt::checkpoint::Gpt2Config;
use scale_ckpt::recipe::{self, ModelSource};
use scale_ckpt::stages::{self, Origin};

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
        let config = match &recipe.model {
            ModelSource::From(name) if name == "gpt2" => {
                Gpt2Config::new(50257, 1024, 768, 12, 12).unwrap()
            }
            ModelSource::From(name) => {
                let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
                Gpt2Config::load(&dir.join("config.json")).unwrap()
            }
            ModelSource::Scratch(scratch) => scratch.config().unwrap(),
        };
        let scratch = matches!(recipe.model, ModelSource::Scratch(_));
        let origin = Origin {
            config: &config,
            new_layers: (0..config.n_layer).filter(|_| scratch).collect(),
        };
        let fits = recipe.train.check(config.n_positions);
        fits.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        stages::plan(&recipe.train, &recipe.stages, recipe.grow.as_ref(), &origin)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        seen += 1;
    }
    assert!(seen >= 3);
}
