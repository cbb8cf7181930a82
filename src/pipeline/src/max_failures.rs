//! How many samples may fail before a run is given up.

use std::{fmt, str::FromStr};

/// The most failures that a run bears.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxFailures {
    /// So many samples.
    Count(u64),
    /// This share, from 0 to 1, of all samples of the selection: also of those that are up to date.
    Share(f64),
}

impl MaxFailures {
    /// How many of so many samples may fail. A share is rounded up: of fifteen samples, 5 % are one.
    pub fn most(self, num_samples: u64) -> u64 {
        /// 7 % of 100 are 7.000000000000001.
        const NOISE: f64 = 1e-9;
        match self {
            MaxFailures::Count(most) => most,
            MaxFailures::Share(share) => (share * num_samples as f64 * (1.0 - NOISE)).ceil() as u64,
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
    fn a_share_is_rounded_up() {
        let of = |text: &str, num_samples| text.parse::<MaxFailures>().expect("a limit").most(num_samples);
        assert_eq!([of("5%", 15), of("20%", 15), of("5%", 20), of("5%", 21), of("5%", 1_000_000)], [1, 3, 1, 2, 50_000]);
        assert_eq!((of("7%", 100), of("29%", 100), of("0.07", 100)), (7, 29, 7));
        assert_eq!((of("0%", 1000), of("5%", 0), of("100%", 3), of("2", 1000)), (0, 0, 3, 2));
    }
}
