//! How large the pages of a selection are.

use std::time::{Duration, Instant};

/// Samples per page at first: few enough that the next stages get work at once, and that labels are not old when their
/// turn comes.
const PAGE: u64 = 100;

/// Samples per page where there is little to do for each: enough that the round trip costs next to nothing.
pub(super) const LARGEST_PAGE: u64 = 1000;

/// A page that is used up within this time is followed by one twice as large, which is fetched meanwhile.
const QUICK: Duration = Duration::from_millis(100);

/// A page ends early when it holds this much: in-document masks of large images are a megabyte each, and the pages wait
/// in memory.
pub(super) const PAGE_BYTES: usize = 8 << 20;

/// How large pages are, by how quickly they are used up. A run that finds nothing to do waits for the database alone; one
/// that computes should not have read ahead what people may still change.
#[derive(Debug)]
pub(super) struct Pace {
    /// Of the next page.
    pub(super) size: u64,
    /// Whether the last page was used up quickly.
    pub(super) is_quick: bool,
    /// What the last page's documents took on average.
    mean_bytes: usize,
    /// When the last page was returned.
    returned: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { size: PAGE, is_quick: false, mean_bytes: 0, returned: None }
    }
}

impl Pace {
    /// The last page is used up: decides how large the next one is.
    pub(super) fn page_used_up(&mut self) {
        if let Some(returned) = self.returned.take() {
            self.adapt(returned.elapsed());
        }
    }

    fn adapt(&mut self, took: Duration) {
        self.is_quick = took < QUICK;
        // Between the two the size stays.
        if took < QUICK {
            self.size *= 2;
        } else if took > 4 * QUICK {
            self.size /= 2;
        }
        // What lies beyond the bytes that a page may have would be read for nothing.
        let most = (PAGE_BYTES / self.mean_bytes.max(1)) as u64;
        self.size = self.size.clamp(PAGE, LARGEST_PAGE).min(most).max(1);
    }

    /// A page is handed on, of so many samples whose documents took so many bytes.
    pub(super) fn page_taken(&mut self, num_samples: usize, bytes: usize) {
        self.mean_bytes = bytes / num_samples.max(1);
        self.returned = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_large_where_samples_take_no_time() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut pace = Pace::default();
        let mut sizes = |times: &[Duration]| {
            times
                .iter()
                .map(|took| {
                    pace.adapt(*took);
                    (pace.size, pace.is_quick)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[quick; 4])[..], [(200, true), (400, true), (800, true), (1000, true)]);
        assert_eq!(
            sizes(&[2 * QUICK, slow, slow, slow, slow])[..],
            [(1000, false), (500, false), (250, false), (125, false), (100, false)]
        );
        pace.mean_bytes = 3 << 20;
        pace.adapt(quick);
        assert_eq!(pace.size, 2);
        pace.mean_bytes = 16 << 20;
        pace.adapt(quick);
        assert_eq!(pace.size, 1, "one sample always is a page");
    }
}
