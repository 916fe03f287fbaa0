//! The line of progress at the foot of a terminal, and what is printed above it.
//!
//! Jobs can be nested; the line shows the one begun last. It is drawn with wrapping switched off,
//! and the cursor waits at its start. A terminal that is resized may break the line in two or cut
//! it, but keeps the cursor where the line begins, so that erasing from the cursor to the end of
//! the screen takes away all of it, and never anything that was printed before.

use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, truncate_str};

use crate::interrupt;

/// Least time between two drawings of a job.
const FRAME: Duration = Duration::from_millis(50);
/// Columns of a terminal that does not say how many it has.
const USUAL_WIDTH: usize = 80;
/// Columns of a bar, where there is room.
const BAR: usize = 24;
/// Columns below which a bar says nothing.
const LEAST_BAR: usize = 6;
/// Back to the start of the line, and erase it and all below it. What is below goes from the second
/// column on: a terminal whose whole screen is erased may keep what was there as history.
const ERASE: &str = "\r\x1b[K \x1b[J\r";

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    jobs: Vec::new(),
    begun: 0,
    drawn: None,
    closed: false,
});

/// Whether standard error is a terminal on which a line can be drawn and erased.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let term = std::env::var_os("TERM").unwrap_or_default();
        std::io::stderr().is_terminal() && !term.is_empty() && term != "dumb"
    });
    *AVAILABLE
}

/// Sees to it that neither a panic nor a second signal leaves a line behind.
pub fn install() {
    interrupt::before_exit(close);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(mut screen) = soon() {
            screen.erase();
        }
        usual(info);
    }));
}

/// Erases the line for good.
fn close() {
    if let Some(mut screen) = soon() {
        screen.erase();
        screen.closed = true;
    }
}

/// Runs `print`, which writes whole lines to the terminal or elsewhere, above the line of progress.
pub fn above<T>(print: impl FnOnce() -> T) -> T {
    let mut screen = screen();
    screen.erase();
    let printed = print();
    screen.draw();
    printed
}

/// What a job shows.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// What is being done.
    pub label: String,
    /// The part that is done, from 0 to 1.
    pub part: f64,
    /// What follows the bar.
    pub figures: String,
}

impl Line {
    /// The line in at most `width` columns less one, since a full line wraps on some terminals.
    fn render(&self, width: usize) -> String {
        let room = width.saturating_sub(1).max(1);
        let taken = measure_text_width(&self.label) + measure_text_width(&self.figures) + 2;
        let bar = room.saturating_sub(taken).min(BAR);
        let line = if bar < LEAST_BAR {
            let label = truncate_str(&self.label, room / 2, "…");
            format!("{label} {}", self.figures)
        } else {
            let full = (self.part.clamp(0.0, 1.0) * bar as f64) as usize;
            let (full, rest) = ("█".repeat(full), "░".repeat(bar - full));
            format!("{} {full}{rest} {}", self.label, self.figures)
        };
        truncate_str(line.trim_end(), room, "…").into_owned()
    }
}

/// A job under way, until it is dropped.
#[derive(Debug)]
pub struct Job(u64);

impl Job {
    /// Begins a job and shows its line.
    pub fn begin(line: Line) -> Self {
        let mut screen = screen();
        screen.begun += 1;
        let number = screen.begun;
        screen.jobs.push((number, line));
        screen.draw();
        Self(number)
    }

    /// Shows the line that `make` makes, if it is time for another and no other job covers it.
    pub fn show(&self, make: impl FnOnce() -> Line) {
        // Who works does not wait for the terminal.
        let Ok(mut screen) = SCREEN.try_lock() else {
            return;
        };
        if screen.drawn.is_some_and(|at| at.elapsed() < FRAME) {
            return;
        }
        if let Some((number, line)) = screen.jobs.last_mut()
            && *number == self.0
        {
            *line = make();
            screen.draw();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut screen = screen();
        screen.jobs.retain(|(number, _)| *number != self.0);
        screen.erase();
        screen.draw();
    }
}

/// What is on the terminal.
#[derive(Debug)]
struct Screen {
    /// Jobs under way, the one begun last at the end.
    jobs: Vec<(u64, Line)>,
    begun: u64,
    /// When the line that stands there was drawn.
    drawn: Option<Instant>,
    /// Nothing is drawn any more.
    closed: bool,
}

impl Screen {
    fn erase(&mut self) {
        if self.drawn.take().is_some() {
            write(ERASE);
        }
    }

    fn draw(&mut self) {
        let Some((_, line)) = self.jobs.last().filter(|_| !self.closed) else {
            return;
        };
        let width = Term::stderr()
            .size_checked()
            .map_or(USUAL_WIDTH, |(_, width)| usize::from(width));
        let line = line.render(width);
        // Erased before it is written, not after: a broken line forgets only thus that it was one.
        write(&format!("{ERASE}\x1b[?7l{line}\x1b[?7h\r"));
        self.drawn = Some(Instant::now());
    }
}

/// Writes to the terminal; one that is gone misses nothing.
fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The screen, unless whoever has it does not give it back, perhaps because of what now happens.
fn soon() -> Option<MutexGuard<'static, Screen>> {
    for _ in 0..10 {
        match SCREEN.try_lock() {
            Ok(screen) => return Some(screen),
            Err(TryLockError::Poisoned(screen)) => return Some(screen.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, figures: &str) -> Line {
        Line {
            label: label.into(),
            part: 0.5,
            figures: figures.into(),
        }
    }

    #[test]
    fn a_line_fits_every_width() {
        let figures = "12/98 eta 3m loss 4.1234 (avg 4.2345) norm 0.52 lr 2.00e-4 4,706 tok/s";
        for label in [
            "training",
            "",
            "小説/第一章 – ñandú.jsonl.gz",
            &"x".repeat(300),
        ] {
            for width in 0..250 {
                let shown = line(label, figures).render(width);
                let columns = measure_text_width(&shown);
                assert!(columns < width.max(2), "{width}: {shown}");
            }
        }
    }

    #[test]
    fn the_bar_takes_what_the_words_leave() {
        let line = line("validation", "4/8 eta 2s");
        let whole = "validation ████████████░░░░░░░░░░░░ 4/8 eta 2s";
        assert_eq!(line.render(200), whole);
        assert_eq!(line.render(80), whole);
        assert_eq!(line.render(33), "validation █████░░░░░ 4/8 eta 2s");
        assert_eq!(line.render(28), "validation 4/8 eta 2s");
        assert_eq!(line.render(12), "vali… 4/8 …");
    }

    #[test]
    fn figures_stay_where_the_label_is_long() {
        let shown = line(&"x".repeat(100), "3/7 eta 1s").render(40);
        assert!(shown.ends_with("… 3/7 eta 1s"), "{shown}");
    }
}
