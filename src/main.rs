//! The `scale-ckpt` program: parse, dispatch, report errors, exit code.

mod cli;
mod commands;

use std::process::ExitCode;

/// Large data sets have more shards than the usual limit allows files to be open.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where this is not allowed, the usual limit stays.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn main() -> ExitCode {
    scale_ckpt::allocator::keep_memory();
    scale_ckpt::interrupt::install();
    scale_ckpt::progress::install();
    allow_many_files();
    match cli::Cli::read().run() {
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
