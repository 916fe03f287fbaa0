//! Progress on standard error, a line at the foot of a terminal and a plain line now and then
//! elsewhere, and all that is printed.

mod screen;

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar};

use crate::checkpoint::hub;
use screen::{Job, Line};

pub use screen::install;

/// Time between plain lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in MiB.
    Bytes,
    /// Anything else.
    Count,
}

/// One job's progress; what shows it goes away when it is dropped.
#[derive(Debug)]
pub struct Meter {
    /// Position, rate and time left; it draws nothing itself.
    count: ProgressBar,
    label: String,
    unit: Unit,
    display: Display,
}

/// Where a meter is seen.
#[derive(Debug)]
enum Display {
    Nowhere,
    Screen(Job),
    /// Lines, and when the last one was printed.
    Lines(Mutex<Instant>),
}

impl Meter {
    /// A meter from 0 to `total`.
    pub fn new(label: &str, total: u64, unit: Unit) -> Self {
        let mut meter = Self {
            count: ProgressBar::hidden(),
            label: crate::error::printable(label),
            unit,
            display: Display::Nowhere,
        };
        meter.count.set_length(total);
        if screen::available() && !quiet() {
            meter.display = Display::Screen(Job::begin(meter.line()));
        } else if !quiet() {
            meter.display = Display::Lines(Mutex::new(Instant::now()));
        }
        meter
    }

    /// Adds to the position.
    pub fn advance(&self, by: u64) {
        self.count.inc(by);
        match &self.display {
            Display::Nowhere => {}
            Display::Screen(job) => job.show(|| self.line()),
            Display::Lines(last) => self.print_if_due(last),
        }
    }

    /// Sets the position, for a job that goes on where it stopped; it does not count for the rate.
    pub fn start_at(&self, position: u64) {
        self.count.set_position(position);
        self.count.reset_eta();
    }

    /// Sets the text after the figures.
    pub fn message(&self, text: String) {
        self.count.set_message(text);
    }

    /// Prints a line that stays.
    pub fn note(&self, text: &str) {
        eprint_line(text);
    }

    fn line(&self) -> Line {
        let (done, total) = (self.count.position(), self.total());
        let eta = HumanDuration(self.count.eta());
        let message = self.count.message();
        let figures = match self.unit {
            Unit::Bytes => format!("{} eta {eta:#} {message}", self.amount()),
            Unit::Count => format!("{done}/{total} eta {eta:#} {message}"),
        };
        Line {
            label: self.label.clone(),
            part: done as f64 / total.max(1) as f64,
            figures: figures.trim_end().to_owned(),
        }
    }

    fn print_if_due(&self, last: &Mutex<Instant>) {
        let Ok(mut last) = last.lock() else {
            return;
        };
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        let eta = HumanDuration(self.count.eta());
        let message = self.count.message();
        let line = format!("{} {} eta {eta} {message}", self.label, self.amount());
        eprint_line(line.trim_end());
    }

    /// How much is done, of how much, and how fast.
    fn amount(&self) -> String {
        let (done, total) = (self.count.position(), self.total());
        match self.unit {
            Unit::Bytes => {
                let rate = HumanBytes(self.count.per_sec() as u64);
                format!("{}/{} {rate}/s", HumanBytes(done), HumanBytes(total))
            }
            Unit::Count => format!("{done}/{total} {:.1}/s", self.count.per_sec()),
        }
    }

    fn total(&self) -> u64 {
        self.count.length().unwrap_or(0)
    }
}

/// Writes a line to standard error, without failing where that is closed.
pub fn eprint_line(text: &str) {
    let _ = screen::above(|| std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Writes a line to standard output.
///
/// # Errors
/// It cannot be written.
pub fn print_line(text: &str) -> std::io::Result<()> {
    screen::above(|| writeln!(std::io::stdout().lock(), "{text}"))
}

/// Whether the user asked for no progress.
fn quiet() -> bool {
    std::env::var("HF_HUB_DISABLE_PROGRESS_BARS")
        .is_ok_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// Downloads, as the hub client reports them.
#[derive(Debug, Default)]
pub struct DownloadMeter {
    current: Mutex<Option<Meter>>,
}

impl hub::Progress for DownloadMeter {
    fn start(&self, file: &str, size: u64, already: u64) {
        let meter = Meter::new(file, size, Unit::Bytes);
        meter.start_at(already);
        if let Ok(mut current) = self.current.lock() {
            *current = Some(meter);
        }
    }

    fn advance(&self, bytes: u64) {
        if let Ok(current) = self.current.lock()
            && let Some(meter) = current.as_ref()
        {
            meter.advance(bytes);
        }
    }

    fn finish(&self) {
        if let Ok(mut current) = self.current.lock() {
            *current = None;
        }
    }

    fn note(&self, text: &str) {
        eprint_line(text);
    }
}
