//! The program on a terminal: what it prints stays printed at every width, and nothing of its line
//! of progress is left behind.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Sandbox, with_recipe};
use terminal::Terminal;

/// Three stages with a growth before each of the later ones, validation and scores on the way,
/// warnings of blocks that do not wake, and a sample; its folder has a wide name.
const STAGES: &str = r#"out = "läufe/小説の長い名前"
[model]
from = "./m"
[data]
train = ["train.txt"]
val = ["val.txt"]
[train]
batch_tokens = 128
context = 32
micro_batch = 1
lr = 1e-3
eval_every_tokens = 128
save_every_tokens = 256
wakeup_steps = 2
[[stage]]
tokens = 512
[[stage]]
tokens = 384
grow = { to = 3, placement = "top" }
trainable = ["new"]
[[stage]]
name = "a stage whose name is so long that the line that tells of it is broken in two at 80 columns"
tokens = 384
grow = { to = 5, placement = "top", init = "copy" }
optimizer = "inherit"
[eval]
every_tokens = 256
tasks = ["hellaswag_completion"]
data = { hellaswag = "items.jsonl" }
prompt = "the"
"#;

fn staged(recipe: &str) -> Sandbox {
    let sandbox = with_recipe(recipe);
    let items = support::fixture("hellaswag/hellaswag_val_200.jsonl");
    let items = std::fs::read_to_string(items).unwrap();
    let few: Vec<&str> = items.lines().take(6).collect();
    sandbox.write("items.jsonl", few.join("\n"));
    sandbox
}

/// What a command prints where there is no terminal, on both streams.
fn without_terminal(sandbox: &Sandbox, args: &str) -> Vec<String> {
    let program = sandbox.command(args).get_program().to_owned();
    let script = format!("exec {} {args} 2>&1", program.to_str().unwrap());
    let output = sandbox.shell("sh", &["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "{text}");
    // An untrained model's sample has characters that a terminal does not show.
    let shown = |line: &str| line.trim_end().replace(|c: char| c.is_control(), "");
    let mut lines: Vec<String> = text.lines().map(shown).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// The same on a terminal of so many columns, which is resized to the next of `widths` after every
/// few hundred bytes. Tables are as wide as without a terminal.
fn on_terminal(sandbox: &Sandbox, args: &str, widths: &[u16]) -> Terminal {
    let mut terminal = Terminal::new(widths[0]);
    let mut child = terminal.spawn(sandbox.command(args).env("COLUMNS", "80"));
    let mut next = widths.iter().cycle().skip(1);
    while terminal.receive() {
        if widths.len() > 1 {
            terminal.resize(*next.next().unwrap());
        }
    }
    child.wait().unwrap();
    terminal
}

/// Lines without what a clock says.
fn timeless(lines: &[String]) -> Vec<&str> {
    let timed = |line: &&str| line.contains(" items/s");
    lines
        .iter()
        .map(|line| {
            let line = line.as_str();
            Some(line)
                .filter(timed)
                .and_then(|line| line.split(" in ").next())
                .unwrap_or(line)
        })
        .collect()
}

/// Lines with wide characters without blanks: a terminal leaves a cell empty at its edge where no
/// wide character fits.
fn packed(lines: &[String]) -> Vec<String> {
    let is_wide = |line: &str| line.contains(|c| c >= '\u{1100}');
    let packed = |line: &String| match is_wide(line) {
        true => line.replace(' ', ""),
        false => line.clone(),
    };
    lines.iter().map(packed).collect()
}

#[track_caller]
fn assert_same(what: &str, terminal: &Terminal, expected: &[String]) {
    let found = terminal.lines();
    let (found, expected) = (
        timeless(&packed(&found)).join("\n"),
        timeless(&packed(expected)).join("\n"),
    );
    assert!(
        found == expected,
        "{what}:\n{found:#?}\nexpected {expected:#?}\nreceived {:?}",
        String::from_utf8_lossy(&terminal.received)
    );
}

#[test]
fn a_staged_run_reads_the_same_at_every_width() {
    let expected = without_terminal(&staged(STAGES), "train r.toml");
    let has = |words: &str| expected.iter().any(|line| line.contains(words));
    for words in [
        "stage 2: ",
        "certificate: ",
        "step 7: ",
        "sample:",
        "hellaswag",
    ] {
        assert!(has(words), "{words} is not in {expected:#?}");
    }
    for width in [40, 80, 100, 200, 0] {
        let terminal = on_terminal(&staged(STAGES), "train r.toml", &[width]);
        assert_same(&format!("{width} columns"), &terminal, &expected);
        // There was something to erase.
        let received = String::from_utf8_lossy(&terminal.received);
        for job in ["training", "validation", "writing"] {
            assert!(received.contains(job), "no line of {job}");
        }
    }
}

#[test]
fn resizing_changes_nothing() {
    let expected = without_terminal(&staged(STAGES), "train r.toml");
    for widths in [
        &[100, 40][..],
        &[80, 200],
        &[200, 33, 120, 57, 81, 20],
        &[30, 29, 28, 27, 26],
    ] {
        let terminal = on_terminal(&staged(STAGES), "train r.toml", widths);
        assert_same(&format!("{widths:?}"), &terminal, &expected);
    }
}

#[test]
fn other_commands_leave_no_trace_of_their_progress() {
    let table = [
        "grow ./m --to 4 --out out",
        "eval ./m ./m --tasks hellaswag --data hellaswag=items.jsonl --val val.txt --context 32",
        "data prepare 第一章の名前.txt 第二章の名前.txt --out out",
        "analyze ./m --text val.txt --windows 2",
        "bench eval --shape prose-4l --items 0",
        "generate ./m --prompt the --tokens 5",
        "generate ./m --tokens 5 --prompt the --temperature -1",
    ];
    for args in table {
        let sandbox = || {
            let sandbox = staged(STAGES);
            for name in ["第一章の名前.txt", "第二章の名前.txt"] {
                sandbox.write(name, "It was.\n".repeat(3000));
            }
            sandbox
        };
        let expected = without_terminal(&sandbox(), args);
        assert!(!expected.is_empty(), "{args}");
        for widths in [&[40][..], &[80, 50]] {
            let terminal = on_terminal(&sandbox(), args, widths);
            assert_same(args, &terminal, &expected);
        }
    }
}

#[test]
fn errors_stand_on_lines_of_their_own() {
    let diverging = STAGES.replace("lr = 1e-3", "lr = 1e30");
    let expected = without_terminal(&staged(&diverging), "train r.toml");
    let error = |line: &String| line.starts_with("error: training diverged");
    assert!(expected.iter().any(error), "{expected:#?}");
    for widths in [&[40][..], &[100, 60]] {
        let terminal = on_terminal(&staged(&diverging), "train r.toml", widths);
        assert_same("an error", &terminal, &expected);
    }
}

/// A run that takes long enough to be stopped.
fn long_run() -> Sandbox {
    let stages = STAGES.replace("tokens = 512", "tokens = 51200000");
    staged(&stages.replace("eval_every_tokens = 128\n", ""))
}

#[test]
fn a_signal_leaves_its_message_and_no_line_of_progress() {
    let once = (
        &[Signal::INT][..],
        &[75][..],
        "hint: the same command goes on",
    );
    // Two of a kind could arrive as one, and of two kinds either may be the first.
    let twice = (&[Signal::INT, Signal::TERM][..], &[130, 143][..], "");
    for (signals, codes, last) in [once, twice] {
        let sandbox = long_run();
        let mut terminal = Terminal::new(70);
        let mut child = terminal.spawn(&mut sandbox.command("train r.toml"));
        terminal.receive_until("(avg ");
        for signal in signals {
            kill_process(Pid::from_child(&child), *signal).unwrap();
        }
        terminal.receive_all();
        let code = child.wait().unwrap().code().unwrap();
        assert!(codes.contains(&code), "{code}");
        let lines = terminal.lines();
        assert!(lines.last().unwrap().contains(last), "{lines:#?}");
        for sign in ["█", "░", " eta "] {
            let left = lines.iter().any(|line| line.contains(sign));
            assert!(!left, "{sign} is left in {lines:#?}");
        }
    }
}

#[test]
fn no_line_is_drawn_where_none_can_be_erased() {
    let expected = without_terminal(&staged(STAGES), "train r.toml");
    for (name, value) in [
        ("TERM", "dumb"),
        ("TERM", ""),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ] {
        let sandbox = staged(STAGES);
        let mut terminal = Terminal::new(80);
        let mut command = sandbox.command("train r.toml");
        command.stdin(Stdio::null());
        command.stdout(terminal.stream()).stderr(terminal.stream());
        command.env("TERM", "xterm").env(name, value);
        let mut child = command.spawn().unwrap();
        drop(command);
        terminal.receive_all();
        child.wait().unwrap();
        assert!(!terminal.received.contains(&0x1b), "{name}={value}");
        assert_same(name, &terminal, &expected);
    }
}

#[test]
fn a_stream_that_is_a_file_gets_lines_alone() {
    for stdout_is_file in [true, false] {
        let sandbox = staged(STAGES);
        let file = std::fs::File::create(sandbox.path("file")).unwrap();
        let mut terminal = Terminal::new(60);
        let mut command: Command = sandbox.command("train r.toml");
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        if stdout_is_file {
            command.stdout(file).stderr(terminal.stream());
        } else {
            command.stdout(terminal.stream()).stderr(file);
        }
        let mut child = command.spawn().unwrap();
        drop(command);
        terminal.receive_all();
        assert!(child.wait().unwrap().success());
        let in_file = String::from_utf8(sandbox.read("file")).unwrap();
        assert!(!in_file.contains('\u{1b}') && !in_file.contains('\r'));
        let on_screen = terminal.lines().join("\n");
        assert!(!on_screen.contains('█'), "{on_screen}");
        assert_eq!(in_file.contains("checkpoint: "), stdout_is_file);
        assert_eq!(on_screen.contains("checkpoint: "), !stdout_is_file);
        assert_eq!(on_screen.contains("stage 2: "), stdout_is_file);
        assert_eq!(in_file.contains("stage 2: "), !stdout_is_file);
    }
}
