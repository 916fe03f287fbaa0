//! The command line.

mod foreign;
mod numbers;

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser, ValueParser};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use scale_ckpt::Result;
use scale_ckpt::home::Paths;

use crate::commands::{
    analyze, bench, clean, compare, completions, data, diff, doctor, eval, generate, grow, inspect,
    logits, man, merge, methods, plan, search, train,
};

const AFTER_HELP: &str = "\
A checkpoint is a hub id (gpt2, org/name@revision), a folder (./dir) or a file (./model.safetensors).
Results go to standard output, everything else to standard error.

Exit codes: 0 done, 1 failed check or internal error, 2 usage, 3 bad recipe, checkpoint or data,
4 hub or network, 5 disk, 6 device, 7 diverged, 8 output in use, 75 stopped by a signal.";

/// Grow pretrained GPT-2 checkpoints deeper, continue training them, and measure what it bought.
#[derive(Debug, Parser)]
#[command(name = "scale-ckpt", version = scale_ckpt::VERSION, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Grow(grow::Args),
    Data(data::Args),
    Plan(plan::Args),
    Train(train::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Search(search::Args),
    Merge(merge::Args),
    Clean(clean::Args),
    Generate(generate::Args),
    Inspect(inspect::Args),
    Analyze(analyze::Args),
    Diff(diff::Args),
    Logits(logits::Args),
    Methods(methods::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The command line as it is parsed, with `~` for the home folder and numbers as in recipes: a
/// negative number is a value of the option before it, which then says what it takes, and not an
/// option that does not exist.
fn command() -> clap::Command {
    fn with_numbers(command: clap::Command) -> clap::Command {
        command
            .mut_args(
                |arg| match arg.get_action().takes_values() && !arg.is_positional() {
                    true => arg.allow_negative_numbers(true),
                    false => arg,
                },
            )
            .mut_subcommands(with_numbers)
    }
    with_numbers(numbers::reading(expanding(Cli::command())))
}

impl Cli {
    /// Parses the arguments of the process, and ends it where they cannot be meant.
    pub fn read() -> Self {
        let read = || Self::from_arg_matches(&command().try_get_matches()?);
        read().unwrap_or_else(|error| {
            let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            foreign::advised(error, &words.collect::<Vec<_>>()).exit()
        })
    }

    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Grow(args) => args.execute(),
            Command::Data(args) => args.execute(),
            Command::Plan(args) => args.execute(),
            Command::Train(args) => args.execute(),
            Command::Eval(args) => args.execute(),
            Command::Compare(args) => args.execute(),
            Command::Search(args) => args.execute(),
            Command::Merge(args) => args.execute(),
            Command::Clean(args) => args.execute(),
            Command::Generate(args) => args.execute(),
            Command::Inspect(args) => args.execute(),
            Command::Analyze(args) => args.execute(),
            Command::Diff(args) => args.execute(),
            Command::Logits(args) => args.execute(),
            Command::Methods(args) => args.execute(),
            Command::Bench(args) => args.execute(),
            Command::Doctor(args) => args.execute(),
            Command::Completions(args) => args.execute(),
            Command::Man(args) => args.execute(),
        }
    }
}

/// The command with `~` expanded in every argument that is a path: the shell does it only where
/// `~` begins a word, which in `--out=~/x` it does not.
fn expanding(command: clap::Command) -> clap::Command {
    let at_home = |arg: Arg| {
        let is_path = arg.get_value_parser().type_id() == ValueParser::path_buf().type_id();
        if is_path {
            arg.value_parser(PathBufValueParser::new().try_map(told))
        } else {
            arg
        }
    };
    command.mut_args(at_home).mut_subcommands(expanding)
}

/// The path with `~` expanded, or why it cannot be, in one text.
fn told(path: PathBuf) -> Result<PathBuf, String> {
    path.at_home().map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
