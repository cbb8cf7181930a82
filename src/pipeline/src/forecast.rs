//! What a run will come to: at most, before it begins, and then as far as its first samples say: how many images, how many bytes,
//! how long; and whether the disk has room for that.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    error::RunError,
    event::{Forecast, Outlook, Summary},
    fields::HeatmapFields,
};
use camflow_storage::free_space;

/// Whether to look for room before a disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpaceCheck {
    /// End the run once it is clear that the files will not fit.
    #[default]
    Refuse,
    /// Go on until the disk is full.
    Off,
}

/// Images after which they say something of those that follow, and how often is looked whether these will fit.
const MANY: u64 = 32;

/// The pace is taken over so long at least: the first batches also pay for memory and plans.
const WARM_UP: Duration = Duration::from_secs(5);

/// Images may be larger or smaller than those before; only what exceeds the free space by so much does not fit for sure.
const MARGIN: f64 = 1.1;

/// Looks ahead whenever files were written and samples were stored.
pub(crate) struct Forecaster<'a> {
    folder: Option<&'a Path>,
    check: SpaceCheck,
    /// Samples of the selection.
    num_samples: Option<u64>,
    /// Samples whose files were written, and the bytes of these.
    written: (u64, u64),
    /// When samples were stored first, and how many had ended then.
    first: Option<(Instant, u64)>,
    is_told: bool,
}

impl<'a> Forecaster<'a> {
    pub(crate) fn new(folder: Option<&'a Path>, check: SpaceCheck, num_samples: Option<u64>) -> Self {
        Forecaster { folder, check, num_samples, written: (0, 0), first: None, is_told: false }
    }

    /// What there is to tell before the first sample, of which files take `most_bytes` at most.
    pub(crate) fn outlook(&self, fields: &HeatmapFields, most_bytes: Option<u64>) -> Outlook {
        let fields: Vec<String> = fields.names().map(ToOwned::to_owned).collect();
        let of_all = |count: u64| self.num_samples.map(|num_samples| num_samples.saturating_mul(count));
        Outlook {
            num_samples: self.num_samples,
            num_heatmaps: of_all(fields.len() as u64),
            num_bytes: most_bytes.filter(|_| self.folder.is_some()).and_then(of_all),
            free: self.free(),
            fields,
        }
    }

    /// The files of a sample were written: the fault that those of the rest will not fit.
    pub(crate) fn wrote(&mut self, num_bytes: u64, so_far: &Summary) -> Option<RunError> {
        self.written.0 += 1;
        self.written.1 += num_bytes;
        let (num_written, num_bytes) = self.written;
        if self.check == SpaceCheck::Off || !num_written.is_multiple_of(MANY) {
            return None;
        }
        let num_passed = num_written + so_far.num_skipped() + so_far.num_failed;
        let rest = self.rest(num_passed)?;
        let (free, folder) = self.free()?;
        let needed = of_rest(num_bytes, num_passed, rest);
        (needed as f64 > free as f64 * MARGIN).then(|| RunError::NoSpace {
            folder,
            needed,
            free,
            num_samples: of_rest(num_written, num_passed, rest),
        })
    }

    /// Samples were stored: what there is to tell of those to come.
    pub(crate) fn stored(&mut self, so_far: &Summary, now: Instant) -> Option<Forecast> {
        let num_ended = so_far.num_committed + so_far.num_skipped() + so_far.num_failed;
        let (first, ended_then) = *self.first.get_or_insert((now, num_ended));
        let rest = self.rest(num_ended)?;
        let passed = now.duration_since(first);
        if self.is_told || so_far.num_committed < MANY || passed < WARM_UP || num_ended == ended_then {
            return None;
        }
        self.is_told = true;
        let of_rest = |count: u64| of_rest(count, num_ended, rest);
        let pace = passed.as_secs_f64() / (num_ended - ended_then) as f64;
        Some(Forecast {
            num_samples: of_rest(so_far.num_committed),
            num_heatmaps: of_rest(so_far.num_heatmaps),
            num_bytes: of_rest(so_far.num_bytes),
            time: Duration::from_secs_f64(pace * rest as f64),
            free: self.free(),
        })
    }

    /// Samples that are left when so many are through.
    fn rest(&self, num_passed: u64) -> Option<u64> {
        self.num_samples?.checked_sub(num_passed).filter(|rest| *rest > 0)
    }

    fn free(&self) -> Option<(u64, PathBuf)> {
        let folder = self.folder?;
        Some((free_space(folder).ok()?, folder.to_owned()))
    }
}

/// What the rest comes to if so many samples came to that.
fn of_rest(count: u64, num_passed: u64, rest: u64) -> u64 {
    (count as f64 / num_passed as f64 * rest as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SkipReason;

    fn summary(num_committed: u64, num_skipped: u64, bytes_each: u64) -> Summary {
        Summary {
            num_committed,
            num_heatmaps: 4 * num_committed,
            num_bytes: num_committed * bytes_each,
            skipped: [(SkipReason::UpToDate, num_skipped)].into(),
            ..Summary::default()
        }
    }

    #[test]
    fn what_is_to_come_is_told_once_from_what_was_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forecaster = Forecaster::new(Some(folder.path()), SpaceCheck::Refuse, Some(1000));
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(forecaster.stored(&summary(10, 0, 100), start).is_none(), "the first are slow");
        assert!(forecaster.stored(&summary(20, 0, 100), after(9)).is_none(), "too few");
        let forecast = forecaster.stored(&summary(50, 50, 100), after(10)).expect("a forecast");
        // Of 900 half, as before; 90 took ten seconds.
        assert_eq!((forecast.num_samples, forecast.num_heatmaps, forecast.num_bytes), (450, 1800, 45_000));
        assert_eq!(forecast.time, Duration::from_secs(100));
        assert_eq!(forecast.free.map(|(_, folder)| folder).as_deref(), Some(folder.path()));
        assert!(forecaster.stored(&summary(60, 50, 100), after(20)).is_none(), "once");

        let mut forecaster = Forecaster::new(None, SpaceCheck::Refuse, Some(100));
        assert!(forecaster.stored(&summary(10, 0, 0), start).is_none());
        assert!(forecaster.stored(&summary(100, 0, 0), after(30)).is_none(), "nothing is left");
    }

    #[test]
    fn what_does_not_fit_ends_the_run_unless_that_is_not_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let faults = |folder: Option<&Path>, check, num_samples, num_bytes: u64| -> Vec<u64> {
            let mut forecaster = Forecaster::new(folder, check, num_samples);
            let fault = |number: &u64| forecaster.wrote(num_bytes, &summary(*number, 0, num_bytes)).is_some();
            (1..=64).filter(fault).collect()
        };
        let (folder, many, large) = (Some(folder.path()), Some(1 << 20), 1 << 50);
        assert_eq!(faults(folder, SpaceCheck::Refuse, many, large), [32, 64]);
        assert_eq!(faults(folder, SpaceCheck::Off, many, large), [0; 0]);
        assert_eq!(faults(folder, SpaceCheck::Refuse, many, 1), [0; 0]);
        assert_eq!(faults(folder, SpaceCheck::Refuse, Some(32), large), [0; 0], "nothing is left");
        assert_eq!(faults(folder, SpaceCheck::Refuse, None, large), [0; 0], "nobody knows");
        assert_eq!(faults(None, SpaceCheck::Refuse, many, large), [0; 0], "nothing is written");
    }
}
