//! How many samples may fail before a run is given up.

use std::{fmt, str::FromStr};

/// With fewer samples than this, one bad image would be a large share; the end of the run is waited for.
const ENOUGH: u64 = 100;

/// The most failures that a run bears.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxFailures {
    /// So many samples.
    Count(u64),
    /// This share, from 0 to 1, of the samples that were due: read and not skipped.
    Share(f64),
}

impl MaxFailures {
    /// Whether this is too much, while the run lasts. What is still in flight counts as due and not as failed, so that failures
    /// that are known early weigh no more than others.
    pub fn is_exceeded(self, failed: u64, due: u64) -> bool {
        match self {
            MaxFailures::Count(allowed) => failed > allowed,
            MaxFailures::Share(_) => due >= ENOUGH && self.is_exceeded_at_end(failed, due),
        }
    }

    /// Whether this is too much for a whole run.
    pub fn is_exceeded_at_end(self, failed: u64, due: u64) -> bool {
        match self {
            MaxFailures::Count(allowed) => failed > allowed,
            MaxFailures::Share(allowed) => failed as f64 > allowed * due as f64,
        }
    }
}

impl FromStr for MaxFailures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = |number: &str, whole: f64| {
            let share = number.trim().parse::<f64>().ok().map(|number| number / whole);
            share.filter(|share| (0.0..=1.0).contains(share)).map(MaxFailures::Share)
        };
        let parsed = match text.strip_suffix('%') {
            Some(percent) => share(percent, 100.0),
            None if text.contains('.') => share(text, 1.0),
            None => text.parse().ok().map(MaxFailures::Count),
        };
        parsed.ok_or_else(|| "it is a number of samples (`10`) or a share of them (`5%`, `0.05`)".to_owned())
    }
}

impl fmt::Display for MaxFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxFailures::Count(count) => write!(f, "{count}"),
            MaxFailures::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_are_told_apart() {
        assert_eq!("10".parse(), Ok(MaxFailures::Count(10)));
        assert_eq!("0".parse(), Ok(MaxFailures::Count(0)));
        assert_eq!("5%".parse(), Ok(MaxFailures::Share(0.05)));
        assert_eq!("0.05".parse(), Ok(MaxFailures::Share(0.05)));
        assert_eq!("1.0".parse(), Ok(MaxFailures::Share(1.0)));
        assert_eq!("5%".parse::<MaxFailures>().expect("a share").to_string(), "5%");
        for wrong in ["", "-1", "1.5", "101%", "-1%", "many", "NaN%", "%", "inf%"] {
            assert!(wrong.parse::<MaxFailures>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_judged_when_there_are_enough_samples_and_at_the_end() {
        let share = MaxFailures::Share(0.05);
        assert!(!share.is_exceeded(50, 99) && share.is_exceeded_at_end(50, 99));
        assert!(share.is_exceeded(6, 100) && !share.is_exceeded(5, 100));
        assert!(!share.is_exceeded_at_end(0, 0));
        assert!(MaxFailures::Share(0.0).is_exceeded_at_end(1, 1));
        assert!(MaxFailures::Count(1).is_exceeded(2, 2) && !MaxFailures::Count(1).is_exceeded(1, 2));
    }
}
