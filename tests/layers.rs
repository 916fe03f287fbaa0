//! The house's plan: imports point downward, and the host side knows no burn.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the ground up; each may use those before it and itself. Those of one row are
/// siblings that do not use each other.
const LAYERS: &[&[&str]] = &[
    &["allocator", "error"],
    &["cuda", "home", "interrupt", "owner", "settings"],
    &["lock"],
    &["durable"],
    &["checkpoint", "claim", "device"],
    &["progress", "kernels", "manifest", "events", "ledger"],
    &["model", "run"],
    &["clean", "data"],
    &["growth", "train", "eval", "generate", "inspect"],
    &["analyze", "certify", "stages"],
    &["account", "grower", "recipe"],
    &["compare"],
    &["report"],
];

/// Modules that work on the host alone.
const WITHOUT_BURN: &[&str] = &[
    "allocator",
    "cuda",
    "error",
    "home",
    "interrupt",
    "durable",
    "checkpoint",
    "claim",
    "clean",
    "compare",
    "growth",
    "inspect",
    "manifest",
    "events",
    "ledger",
    "lock",
    "owner",
    "recipe",
    "report",
    "run",
    "settings",
    "stages",
    "progress",
];

fn files_under(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|entry| files_under(&entry.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn sources(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = files_under(&src.join(module));
    files.extend(files_under(&src.join(format!("{module}.rs"))));
    assert!(!files.is_empty(), "{module} is gone: update LAYERS");
    files
}

fn code_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .map(str::to_owned)
        .collect()
}

fn level(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn imports_point_downward() {
    for (height, module) in LAYERS
        .iter()
        .enumerate()
        .flat_map(|(h, row)| row.iter().map(move |m| (h, *m)))
    {
        for file in sources(module) {
            for line in code_lines(&file) {
                for (at, _) in line.match_indices("crate::") {
                    let rest = &line[at + "crate::".len()..];
                    let used: String = rest
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect();
                    let Some(other) = level(&used) else { continue };
                    assert!(
                        other < height || used == module,
                        "{}: {module} uses {used}: {line}",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_module_has_its_place() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(level(module).is_some(), "{module} is not in LAYERS");
    }
}

/// A path in a settings file may begin with `~`, as a shell has it.
#[test]
fn paths_that_people_write_know_the_home_folder() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut fields = 0;
    for file in [
        "recipe.rs",
        "growth/config.rs",
        "compare/config.rs",
        "compare/search.rs",
    ] {
        let lines = code_lines(&src.join(file));
        for pair in lines.windows(2) {
            if pair[1].starts_with("pub ") && pair[1].ends_with(',') && pair[1].contains("PathBuf")
            {
                assert!(pair[0].contains("home::deserialize"), "{file}: {}", pair[1]);
                fields += 1;
            }
        }
    }
    assert!(fields >= 13, "{fields}");
}

#[test]
fn the_host_side_knows_no_burn() {
    for module in WITHOUT_BURN {
        for file in sources(module) {
            // The restriction is on code; `device` names burn and is not in the list.
            assert!(
                code_lines(&file)
                    .iter()
                    .all(|line| !line.contains("burn::")),
                "{}",
                file.display()
            );
        }
    }
}
