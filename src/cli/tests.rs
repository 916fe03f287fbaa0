//! Every command line that stands in the README, in a recipe or in a text of the program is one
//! that the program takes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::{Cli, command, foreign};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|e| extensions.iter().any(|x| e == *x))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Words as a shell has them, up to a comment, a redirection or a pipe.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, '#') if !begun => break,
            (None, '>' | '|' | '&' | ';') => break,
            (None, c) if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (None, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// What stands between back-quotes and begins with the program's name.
fn quoted(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let ours = spans.filter(|span| span.starts_with("scale-ckpt "));
    ours.map(|span| span.replace('\n', " ")).collect()
}

/// Lines of shell that call the program, with what follows a backslash.
fn called<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let call = |line: &str| {
        let line = line.trim().trim_start_matches("exec ");
        let line = line.replace("cargo run --release -- ", "scale-ckpt ");
        line.starts_with("scale-ckpt ").then_some(line)
    };
    text.lines().filter_map(call).collect()
}

/// A mention names a command, a command line is one.
#[track_caller]
fn assert_exists(place: &str, line: &str) {
    let words = words(line);
    let mut command = Cli::command();
    let mut rest = &words[1..];
    while let Some((first, others)) = rest.split_first() {
        let Some(below) = command.find_subcommand(first) else {
            break;
        };
        (command, rest) = (below.clone(), others);
    }
    if rest.is_empty() && words.len() > 1 {
        return;
    }
    if let Err(error) = Cli::try_parse_from(&words) {
        panic!("{place}: {line}\n{error}");
    }
}

#[test]
fn command_lines_of_the_readme_parse() {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let called = called(lines);
    assert!(called.len() > 30, "{called:#?}");
    let outside: String = text.split("```").step_by(2).collect();
    let mentioned = quoted(&outside);
    assert!(mentioned.len() > 5, "{mentioned:#?}");
    for line in called.iter().chain(&mentioned) {
        assert_exists("README.md", line);
    }
}

#[test]
fn command_lines_of_recipes_parse() {
    let mut seen = 0;
    for path in files("recipes", &["toml", "sbatch"]) {
        let text = read(&path);
        let toml = path.extension().is_some_and(|e| e == "toml");
        let lines = text.lines().filter_map(|line| match toml {
            true => line.strip_prefix('#'),
            false => Some(line),
        });
        for line in called(lines) {
            let line = line.replace("$shard/$count", "2/8");
            assert_exists(&path.display().to_string(), &line);
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn a_recipe_says_how_its_data_is_made() {
    for path in files("recipes", &["toml"]) {
        let text = read(&path);
        let comments = called(text.lines().filter_map(|line| line.strip_prefix('#')));
        let commands: Vec<Vec<String>> = comments.iter().map(|line| words(line)).collect();
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.map_or_else(Vec::new, |line| {
                let strings = line.split('"').skip(1).step_by(2);
                strings.map(str::to_owned).collect()
            })
        };
        for file in [of("train = ["), of("val = ["), of("data = {")].concat() {
            let made = commands
                .iter()
                .any(|words| words.ends_with(&["--out".into(), file.clone()]));
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists();
            let told = text.contains(&format!("# `{file}` is "));
            assert!(made || shipped || told, "{}: {file}", path.display());
        }
    }
}

#[test]
fn the_family_finds_what_the_continued_run_writes() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let family = read(&recipes.join("family.toml"));
    let continued = read(&recipes.join("continue.toml"));
    let out = continued
        .lines()
        .find_map(|line| line.strip_prefix("out = "));
    let out = out.expect("it says where").trim_matches('"');
    assert!(family.contains(&format!("\"./{out}/step-*\"")), "{out}");
}

#[test]
fn commands_that_help_and_hints_name_exist() {
    let mut commands = vec![Cli::command()];
    let mut seen = 0;
    while let Some(mut command) = commands.pop() {
        let name = command.get_name().to_owned();
        for line in quoted(&command.render_long_help().to_string()) {
            assert_exists(&name, &line);
            seen += 1;
        }
        commands.extend(command.get_subcommands().cloned());
    }
    for path in files("src", &["rs"]) {
        let text = read(&path);
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().starts_with("//"))
            .collect();
        for line in quoted(&code.join("\n"))
            .iter()
            .filter(|line| !line.contains('{'))
        {
            assert_exists(&path.display().to_string(), line);
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

/// Names of every command, those below others after them.
fn paths(command: &clap::Command) -> Vec<Vec<String>> {
    let below = command.get_subcommands().flat_map(|sub| {
        let of = |path: Vec<String>| [vec![sub.get_name().to_owned()], path].concat();
        paths(sub).into_iter().map(of).collect::<Vec<_>>()
    });
    std::iter::once(Vec::new()).chain(below).collect()
}

#[test]
fn a_negative_number_is_no_unknown_option() {
    let mut seen = 0;
    for path in paths(&Cli::command()) {
        let mut command = command();
        let mut of = &mut command;
        for name in &path {
            of = of.find_subcommand_mut(name).expect("it is there");
        }
        let valued = |arg: &&clap::Arg| arg.get_action().takes_values();
        let flags = of.get_arguments().filter(valued);
        let flags: Vec<String> = flags
            .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
            .collect();
        for flag in flags {
            let words = [&["scale-ckpt".to_owned()], &path[..], &[flag, "-1".into()]].concat();
            if let Err(error) = command.clone().try_get_matches_from(&words) {
                let kind = error.kind();
                assert_ne!(kind, clap::error::ErrorKind::UnknownArgument, "{words:?}");
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn options_of_other_programs_are_none_here_and_what_is_said_of_them_exists() {
    let program = Cli::command();
    for (commands, flags, tip) in foreign::FLAGS {
        let mut known = false;
        for name in commands.split(' ') {
            let mut of = program
                .find_subcommand(name)
                .or_else(|| {
                    program
                        .get_subcommands()
                        .find_map(|c| c.find_subcommand(name))
                })
                .unwrap_or_else(|| panic!("{name}: no such command"));
            if name == "data" || name == "prepare" {
                let data = program.find_subcommand("data").expect("it is there");
                of = data.find_subcommand("prepare").expect("it is there");
            }
            let longs: Vec<&str> = of.get_arguments().filter_map(clap::Arg::get_long).collect();
            for flag in flags.split(' ') {
                let is_spelling = tip.contains(&format!("--{flag} "));
                assert!(is_spelling || !longs.contains(&flag), "{name} --{flag}");
            }
            let words = tip.split([' ', ',', ':', ';']);
            let mut named = words.filter_map(|word| word.strip_prefix("--"));
            let nested = name == "bench";
            known |= nested || named.all(|flag| longs.contains(&flag));
        }
        assert!(known, "{commands}: {tip}");
    }
}

#[test]
fn every_number_is_refused_in_plain_words() {
    let mut seen = 0;
    for path in paths(&Cli::command()) {
        let mut command = command();
        let mut of = &mut command;
        for name in &path {
            of = of.find_subcommand_mut(name).expect("it is there");
        }
        let flags = of.get_arguments().filter_map(clap::Arg::get_long);
        let flags: Vec<String> = flags.map(|flag| format!("--{flag}")).collect();
        for flag in flags {
            for value in ["0", "-1", "x", "", "1.5", "9TFLOPS", "1e400"] {
                let words = [
                    &["scale-ckpt".to_owned()],
                    &path[..],
                    &[flag.clone(), value.into()],
                ];
                let error = command.clone().try_get_matches_from(words.concat());
                let Err(error) = error else { continue };
                let text = error.to_string();
                seen += usize::from(text.contains("number from"));
                for rust in [
                    "non-zero type",
                    "invalid digit",
                    "literal",
                    "empty string",
                    "..=",
                ] {
                    assert!(!text.contains(rust), "{text}");
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
