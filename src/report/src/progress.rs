//! Progress: a bar with rate and remaining time on a terminal, now and then a line where standard error is a file.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::stderr_line;

/// Between two lines in a log: a night's run of hours fills a few pages, not a disk.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// Between two looks at the figures: they change too fast to be read when samples are merely passed over.
const BETWEEN_FIGURES: Duration = Duration::from_millis(100);

pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    num_skipped: u64,
    num_failed: u64,
    num_committed: u64,
    started: Instant,
    last_line: Instant,
    last_figures: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(num_samples: Option<u64>, is_terminal: bool) -> Self {
        let bar = match num_samples {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        let template = "{bar:30} {pos}/{len} samples  {msg}  {elapsed_precise} elapsed{left}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            // Before the first sample nobody knows.
            let left = |state: &ProgressState, out: &mut dyn Write| {
                if state.pos() > 0 {
                    let _ = write!(out, ", {} left", FormattedDuration(state.eta()));
                }
            };
            bar.set_style(style.with_key("left", left));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        let now = Instant::now();
        Progress {
            bar,
            is_terminal,
            num_skipped: 0,
            num_failed: 0,
            num_committed: 0,
            started: now,
            last_line: now,
            last_figures: None,
        }
    }

    pub(crate) fn committed(&mut self) {
        self.num_committed += 1;
        self.advance();
    }

    pub(crate) fn skipped(&mut self) {
        self.num_skipped += 1;
        self.advance();
    }

    pub(crate) fn failed(&mut self) {
        self.num_failed += 1;
        self.advance();
    }

    fn advance(&mut self) {
        self.bar.inc(1);
        if self.last_figures.is_some_and(|shown| shown.elapsed() < BETWEEN_FIGURES) {
            return;
        }
        self.last_figures = Some(Instant::now());
        // Passed-over samples take no time worth speaking of: the rate is that of the images that were computed.
        let rate = self.num_committed as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let message = format!("{rate:.2} images/s, {} skipped, {} failed", self.num_skipped, self.num_failed);
        // A log gets its lines once something is done; until then there may be nothing to do.
        let is_told = self.num_committed + self.num_failed > 0;
        if !self.is_terminal && is_told && self.last_line.elapsed() >= BETWEEN_LINES {
            self.last_line = Instant::now();
            let total = self.bar.length().map(|total| format!(" of {total}")).unwrap_or_default();
            stderr_line(&format!("{}{total} samples, {message}", self.bar.position()));
        }
        self.bar.set_message(message);
    }

    /// A line above the bar.
    pub(crate) fn line(&self, text: &str) {
        self.suspend(|| stderr_line(text));
    }

    /// Prints something while the bar is away.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        if self.is_terminal { self.bar.suspend(print) } else { print() }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
