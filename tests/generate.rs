//! `generate`: where the prompt comes from, how tokens are chosen, and who reads them.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Outcome, Sandbox};

const GENERATE: &str = "generate ./m --tokens 12";

fn sandbox() -> Sandbox {
    Sandbox::with("hellaswag/model")
}

/// The command with `input` on standard input, none of which is /dev/null.
fn with_input(sandbox: &Sandbox, args: &str, input: &[u8]) -> Outcome {
    let mut command = sandbox.command(args);
    if input.is_empty() {
        command.stdin(Stdio::null());
        return Outcome::of(command);
    }
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that refuses its arguments reads nothing.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let outcome = Outcome::of_child(child);
    let _ = writer.join().unwrap();
    outcome
}

fn with_prompt(sandbox: &Sandbox, prompt: &str) -> String {
    let mut command: Command = sandbox.command(GENERATE);
    command.args(["--prompt", prompt]).stdin(Stdio::null());
    Outcome::of(command).expect(0, &[]).stdout
}

#[test]
fn standard_input_is_a_prompt_as_an_argument_is() {
    let sandbox = sandbox();
    for (input, prompt) in [
        ("the old\n", "the old"),
        ("the old", "the old"),
        ("the old\r\n", "the old"),
        ("the\nold\n\n", "the\nold\n"),
        ("\n", ""),
        ("", ""),
        ("« ça »\n", "« ça »"),
        ("- and\n", "- and"),
    ] {
        let expected = with_prompt(&sandbox, prompt);
        assert!(expected.starts_with(prompt));
        for args in [GENERATE, &format!("{GENERATE} --prompt -")] {
            let found = with_input(&sandbox, args, input.as_bytes()).expect(0, &[]);
            assert_eq!(found.stdout, expected, "{args}: {input:?}");
        }
    }
    // An argument is taken before a pipe.
    let args = format!("{GENERATE} --prompt the");
    let found = with_input(&sandbox, &args, b"something else").expect(0, &[]);
    assert_eq!(found.stdout, with_prompt(&sandbox, "the"));
}

#[test]
fn a_prompt_that_is_no_text_is_refused() {
    let sandbox = sandbox();
    for (input, at) in [
        (&b"the \xff"[..], 4),
        (b"\xc3", 0),
        ("aé".as_bytes().split_last().unwrap().1, 1),
    ] {
        let words = format!("error: standard input: not UTF-8 at byte {at}");
        let outcome = with_input(&sandbox, GENERATE, input).expect(3, &[&words, "hint: "]);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_read_from_its_end() {
    let sandbox = sandbox();
    let long = "the old house. ".repeat(1000);
    let outcome = with_input(&sandbox, GENERATE, long.as_bytes());
    let outcome = outcome.expect(0, &["note: the prompt has ", "the model reads the last "]);
    assert!(outcome.stdout.starts_with(&long) && outcome.stdout.len() > long.len());
    let short = with_input(&sandbox, GENERATE, b"the old house. ");
    assert!(!short.expect(0, &[]).stderr.contains("note: "));
}

#[test]
fn sampling_is_checked() {
    let sandbox = sandbox();
    for (flags, words) in [
        (
            "--top-p 0",
            "--top-p 0 must be a number above 0 and up to 1",
        ),
        ("--top-p -0.5", "--top-p -0.5 must be"),
        ("--top-p 1.5", "--top-p 1.5 must be"),
        ("--top-p nan", "--top-p NaN must be"),
        ("--top-p inf", "--top-p inf must be"),
        ("--top-p much", "invalid value 'much'"),
        ("--temperature -1", "--temperature -1 must be 0 or more"),
        ("--temperature nan", "--temperature NaN must be"),
        ("--temperature inf", "--temperature inf must be"),
        ("--top-k -1", "invalid value '-1' for '--top-k <K>'"),
        ("--tokens -1", "invalid value '-1' for '--tokens <N>'"),
    ] {
        sandbox.refuses(&format!("generate ./m --prompt x {flags}"), 2, &[words]);
    }
}

#[test]
fn a_tiny_nucleus_is_greedy_and_a_whole_one_is_none() {
    let sandbox = sandbox();
    let run = |flags: &str| {
        let args = format!("{GENERATE} --prompt the --tokens 40 {flags}");
        sandbox
            .run(&args.replace("--tokens 12 ", ""))
            .expect(0, &[])
            .stdout
    };
    let greedy = run("--temperature 0");
    assert_eq!(run("--temperature 0 --top-p 0.3 --top-k 0"), greedy);
    assert_eq!(run("--top-p 1e-9"), greedy);
    assert_eq!(
        run("--top-p 1e-9 --seed 7 --top-k 0 --temperature 3"),
        greedy
    );
    let sampled = run("--temperature 1.5");
    assert_ne!(sampled, greedy);
    assert_eq!(run("--temperature 1.5 --top-p 1"), sampled);
    assert_ne!(run("--temperature 1.5 --top-p 0.5"), sampled);
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    let sandbox = sandbox();
    let mut command =
        sandbox.command("generate ./m --prompt the --tokens 100000000 --temperature 2");
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let mut start = [0; 8];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"the"));
    drop(stdout);
    let outcome = Outcome::of_child(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_signal_ends_the_wait_for_a_prompt() {
    let sandbox = sandbox();
    let mut command = sandbox.command("generate ./m --prompt -");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let since = Instant::now();
    let outcome = Outcome::of_child(child);
    assert!(since.elapsed() < Duration::from_secs(10));
    outcome.expect(75, &["interrupted: "]);
}
