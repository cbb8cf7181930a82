//! What is checked, and which figures are good enough.

use camflow_names::{Choice, existing};

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Rank correlation of the heatmap with that of the model with all weights randomised.
    Randomisation,
    /// The same with the weights nearest to the output alone randomised.
    Output,
    /// Rank correlation with the heatmap of the mirrored image, mirrored back.
    Flip,
    /// The same of shifted images.
    Shift,
    /// How far noise moves the heatmap, by its size: the average sensitivity.
    Noise,
    /// Rank correlation with the heatmaps of other methods.
    Agreement,
    /// Largest difference when the same image is explained again.
    Repeat,
    /// The same in a batch with others.
    Batch,
}

impl Choice for Check {
    const ALL: &'static [Self] = &[
        Check::Randomisation,
        Check::Output,
        Check::Flip,
        Check::Shift,
        Check::Noise,
        Check::Agreement,
        Check::Repeat,
        Check::Batch,
    ];

    fn name(self) -> &'static str {
        match self {
            Check::Randomisation => "randomisation",
            Check::Output => "output",
            Check::Flip => "flip",
            Check::Shift => "shift",
            Check::Noise => "noise",
            Check::Agreement => "agreement",
            Check::Repeat => "repeat",
            Check::Batch => "batch",
        }
    }
}

impl Check {
    /// Whether a higher figure is a better one.
    pub fn is_better_high(self) -> bool {
        matches!(self, Check::Flip | Check::Shift | Check::Agreement)
    }

    /// The threshold where nobody says another.
    pub fn default_threshold(self) -> Threshold {
        let (pass, fail) = match self {
            Check::Randomisation => (0.5, 0.8),
            // A method that does not look at the output at all is for some purposes the right one.
            Check::Output => (0.99, f64::INFINITY),
            Check::Flip | Check::Shift => (0.7, 0.4),
            Check::Noise => (0.3, 0.7),
            Check::Agreement => (0.5, 0.2),
            Check::Repeat => (1e-6, 1e-3),
            Check::Batch => (1e-3, 1e-2),
        };
        Threshold { pass, fail }
    }
}

/// Which figures are good enough, and which are not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Up to this one (from it on, where higher is better) the check is passed.
    pub pass: f64,
    /// Beyond this one it is failed; in between it is weak.
    pub fail: f64,
}

/// The threshold of each check.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(Vec<Threshold>);

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds(Check::ALL.iter().map(|check| check.default_threshold()).collect())
    }
}

impl Thresholds {
    /// Of a check.
    pub fn of(&self, check: Check) -> Threshold {
        self.0[check as usize]
    }

    /// Sets one.
    pub fn set(&mut self, check: Check, threshold: Threshold) {
        self.0[check as usize] = threshold;
    }
}

impl Threshold {
    /// Reads `CHECK=PASS` or `CHECK=PASS,FAIL`; with one number what does not pass fails.
    ///
    /// # Errors
    /// What is wrong, and what there is.
    pub fn parse(text: &str) -> Result<(Check, Threshold), String> {
        let form = "it is `CHECK=PASS` or `CHECK=PASS,FAIL`, such as `flip=0.8,0.5`";
        let (name, numbers) = text.split_once('=').ok_or_else(|| form.to_owned())?;
        let names: Vec<&str> = Check::ALL.iter().map(|check| check.name()).collect();
        let check = Check::ALL.iter().find(|check| check.name() == name);
        let check = *check.ok_or_else(|| format!("there is no check `{name}`; {}", existing("checks", name, &names)))?;
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("`{text}` is no number; {form}")),
        };
        let (pass, fail) = match numbers.split_once(',') {
            Some((pass, fail)) => (number(pass)?, number(fail)?),
            None => (number(numbers)?, number(numbers)?),
        };
        let is_ordered = if check.is_better_high() { fail <= pass } else { pass <= fail };
        if !is_ordered {
            let better = if check.is_better_high() { "higher" } else { "lower" };
            return Err(format!("of `{name}` {better} is better, so that {fail} cannot be a failure where {pass} is passed"));
        }
        Ok((check, Threshold { pass, fail }))
    }

    /// What is said of a figure.
    pub(super) fn verdict(self, check: Check, figure: f64) -> Verdict {
        // With higher ones better all signs turn.
        let sign = if check.is_better_high() { -1.0 } else { 1.0 };
        if sign * figure <= sign * self.pass {
            Verdict::Passed
        } else if sign * figure <= sign * self.fail {
            Verdict::Weak
        } else {
            Verdict::Failed
        }
    }
}

/// What is said of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As good as it should be.
    Passed,
    /// In between.
    Weak,
    /// Not good enough.
    Failed,
}

impl Verdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Weak => "weak",
            Verdict::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        assert_eq!(Threshold::parse("flip=0.8,0.5"), Ok((Check::Flip, Threshold { pass: 0.8, fail: 0.5 })));
        assert_eq!(Threshold::parse("noise=0.2"), Ok((Check::Noise, Threshold { pass: 0.2, fail: 0.2 })));
        for (text, said) in [
            ("flip", "CHECK=PASS"),
            ("flop=1", "`flip`"),
            ("flip=much", "no number"),
            ("flip=0.5,0.8", "higher is better"),
            ("noise=0.5,0.2", "lower is better"),
        ] {
            let error = Threshold::parse(text).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn verdicts_follow_the_direction_of_a_check() {
        let verdict = |check: Check, figure: f64| check.default_threshold().verdict(check, figure);
        assert_eq!(
            [0.1, 0.6, 0.9].map(|figure| verdict(Check::Randomisation, figure)),
            [Verdict::Passed, Verdict::Weak, Verdict::Failed]
        );
        assert_eq!([0.9, 0.6, 0.1].map(|figure| verdict(Check::Flip, figure)), [Verdict::Passed, Verdict::Weak, Verdict::Failed]);
        // A method that does not look at the output is weak, and no more.
        assert_eq!(verdict(Check::Output, 1.0), Verdict::Weak);
    }
}
