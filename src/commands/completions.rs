//! `scale-ckpt completions`.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use scale_ckpt::Result;
use scale_ckpt::compare::budget::Ledger;
use scale_ckpt::eval::task::group_of;
use scale_ckpt::eval::tasks::{self, blimp};
use scale_ckpt::growth::{METHODS, init};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut with_values(crate::cli::Cli::command()),
            "scale-ckpt",
            &mut script,
        );
        let mut script = String::from_utf8_lossy(&script).into_owned();
        if self.shell == Shell::Bash {
            // clap_complete writes the `-` of a program's own name in one way where a script sets
            // the command and in another where it looks it up, so that none is ever found.
            script = script.replace("scale__subcmd__ckpt", "scale__ckpt");
        }
        super::shared::print(script.trim_end())
    }
}

/// The command with the values that options are known to take, where the option itself says more
/// of a wrong one than a list would.
fn with_values(command: Command) -> Command {
    command
        .mut_args(with_values_of)
        .mut_subcommands(with_values)
}

fn with_values_of(arg: Arg) -> Arg {
    let values = match arg.get_long() {
        Some("method") => METHODS.iter().map(|m| m.name.to_owned()).collect(),
        Some("init") => init::CATALOGUE.iter().map(|i| i.0.to_owned()).collect(),
        Some("shape") => super::bench::shapes().map(str::to_owned).collect(),
        Some("precision") => ["f32", "bf16"].map(str::to_owned).to_vec(),
        Some("device") => ["cpu", "cuda", "wgpu"].map(str::to_owned).to_vec(),
        Some("ledger") => Ledger::ALL.map(|l| l.name().to_owned()).to_vec(),
        Some("tasks") => task_names(),
        _ => return arg,
    };
    arg.value_parser(PossibleValuesParser::new(values))
}

/// The tasks without the parts of blimp, and blimp.
fn task_names() -> Vec<String> {
    let all = tasks::all().into_iter().map(|task| task.name());
    let whole = all.filter(|name| group_of(name).is_none());
    whole.chain([blimp::GROUP.to_owned()]).collect()
}
