//! The `scale-ckpt` program: parse, dispatch, report errors, exit code.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    scale_ckpt::interrupt::install();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            scale_ckpt::progress::eprint_line(&format!("error: {error}"));
            if let Some(hint) = error.hint() {
                scale_ckpt::progress::eprint_line(&format!("hint: {hint}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
