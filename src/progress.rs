//! Progress on standard error: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::checkpoint::hub;

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

/// One job's progress.
#[derive(Debug)]
pub struct Meter {
    bar: ProgressBar,
    label: String,
    unit: Unit,
    plain: bool,
    last_line: Mutex<Instant>,
}

impl Meter {
    /// A meter from 0 to `total`.
    pub fn new(label: &str, total: u64, unit: Unit) -> Self {
        let plain = !std::io::stderr().is_terminal() || quiet();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = match unit {
            Unit::Bytes => {
                "{prefix} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}"
            }
            Unit::Count => "{prefix} {bar:24} {pos}/{len} eta {eta} {msg}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is sound"));
        bar.set_prefix(label.to_owned());
        Self {
            bar,
            label: label.to_owned(),
            unit,
            plain,
            last_line: Mutex::new(Instant::now()),
        }
    }

    /// Adds to the position.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
        self.line_if_due();
    }

    /// Sets the position, for a job that goes on where it stopped; it does not count for the rate.
    pub fn start_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// Sets the text after the figures.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Prints a line that stays, above the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprint_line(text));
    }

    /// Ends the meter; the bar goes away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line_if_due(&self) {
        if !self.plain || quiet() {
            return;
        }
        let Ok(mut last) = self.last_line.lock() else {
            return;
        };
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let amount = match self.unit {
            Unit::Bytes => {
                let rate = HumanBytes(self.bar.per_sec() as u64);
                format!("{}/{} {rate}/s", HumanBytes(done), HumanBytes(total))
            }
            Unit::Count => format!("{done}/{total} {:.1}/s", self.bar.per_sec()),
        };
        eprint_line(
            format!(
                "{} {amount} eta {} {}",
                self.label,
                HumanDuration(self.bar.eta()),
                self.bar.message()
            )
            .trim_end(),
        );
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Writes a line to standard error, without failing where that is closed.
pub fn eprint_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
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
        let meter = Meter::new(&crate::error::printable(file), size, Unit::Bytes);
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
