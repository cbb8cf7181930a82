//! Thresholds: by how much B may fall short of A.

use super::{comparison::Comparison, quantity::Quantity, statistics::Difference};
use camflow_names::{Choice, counted, existing};

/// Which way is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// B has less than A.
    Drop,
    /// B has more than A.
    Rise,
}

/// By how much the mean of a quantity may change from A to B.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// In which direction.
    pub worse: Worse,
    /// Of heatmaps of this class, by A's name for it; of all otherwise.
    pub class: Option<String>,
    /// Of what.
    pub quantity: Quantity,
    /// By how much; not negative.
    pub limit: f64,
}

/// How a gate was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The mean changed by more than the limit, and not by chance: the interval lies beyond no change.
    Crossed,
    /// All of the interval is within the limit.
    Kept,
    /// The interval reaches beyond the limit, so that the pairs do not say.
    Undecided,
}

/// A gate, and what it let through.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The gate.
    pub gate: Gate,
    /// The difference; `None` where no pair has the quantity.
    pub difference: Option<Difference>,
    /// `None` where there is no difference to judge.
    pub verdict: Option<Verdict>,
    /// Whether what is not known counts as crossed.
    pub is_strict: bool,
}

impl Verdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Crossed => "crossed",
            Verdict::Kept => "kept",
            Verdict::Undecided => "undecided",
        }
    }
}

impl Gate {
    /// Reads `[CLASS:]MEASURE=NUMBER`.
    ///
    /// # Errors
    /// What is wrong, and what there is.
    pub fn parse(worse: Worse, text: &str) -> Result<Gate, String> {
        let form = || "it is `MEASURE=NUMBER` or `CLASS:MEASURE=NUMBER`, such as `energy_inside=0.02`".to_owned();
        let (name, limit) = text.rsplit_once('=').ok_or_else(form)?;
        let (class, name) = match name.rsplit_once(':') {
            Some((class, name)) => (Some(class.to_owned()), name),
            None => (None, name),
        };
        let names: Vec<&str> = Quantity::ALL.iter().map(|quantity| quantity.name()).collect();
        let quantity = Quantity::ALL.iter().find(|quantity| quantity.name() == name);
        let quantity =
            *quantity.ok_or_else(|| format!("there is no measure `{name}`; {}", existing("measures", name, &names)))?;
        match limit.parse::<f64>() {
            Ok(limit) if limit >= 0.0 && limit.is_finite() => Ok(Gate { worse, class, quantity, limit }),
            _ => Err(format!("`{limit}` is no limit: it is a number from 0, by how much the mean may change; {}", form())),
        }
    }

    /// Judges a comparison; where that is strict, what the pairs do not say counts as crossed.
    pub fn judge(&self, comparison: &Comparison, is_strict: bool) -> Judged {
        let difference = comparison.total(self.quantity, self.class.as_deref());
        Judged { gate: self.clone(), difference, verdict: difference.map(|difference| self.verdict(&difference)), is_strict }
    }

    fn verdict(&self, difference: &Difference) -> Verdict {
        let Some([low, high]) = difference.interval else { return Verdict::Undecided };
        let (change, least, most) = match self.worse {
            Worse::Drop => (-difference.mean, -high, -low),
            Worse::Rise => (difference.mean, low, high),
        };
        if change > self.limit && least > 0.0 {
            Verdict::Crossed
        } else if most <= self.limit {
            Verdict::Kept
        } else {
            Verdict::Undecided
        }
    }

    /// What is measured: `energy_inside`, or that of a class.
    pub fn name(&self) -> String {
        match &self.class {
            None => format!("`{}`", self.quantity.name()),
            Some(class) => format!("`{}` of `{class}`", self.quantity.name()),
        }
    }
}

impl Judged {
    /// Whether B is refused.
    pub fn fails(&self) -> bool {
        match self.verdict {
            Some(Verdict::Crossed) => true,
            Some(Verdict::Undecided) => self.is_strict,
            Some(Verdict::Kept) | None => false,
        }
    }

    /// One sentence, without a period; `None` where there is nothing to judge.
    pub fn text(&self) -> Option<String> {
        let Judged { gate, difference, verdict, .. } = self;
        let (difference, verdict) = ((*difference)?, (*verdict)?);
        let (fell, sign) = if gate.worse == Worse::Drop { ("fell", -1.0) } else { ("rose", 1.0) };
        let what = if gate.worse == Worse::Drop { "drop" } else { "rise" };
        let interval = match difference.interval {
            None => "of which one says nothing".to_owned(),
            Some([low, high]) => format!("95 % interval {low:+.4} to {high:+.4}"),
        };
        let of = format!("{}, {interval}", counted(difference.num, "sample", "samples"));
        let (name, change, limit) = (gate.name(), difference.mean, gate.limit);
        Some(match verdict {
            Verdict::Crossed => {
                format!("crossed: {name} {fell} by {:.4} ({of}), more than the {limit} that are allowed", sign * change)
            }
            Verdict::Kept => format!("kept: {name} changed by {change:+.4} ({of}), within the {what} of {limit} that is allowed"),
            Verdict::Undecided => {
                format!(
                    "undecided: {name} changed by {change:+.4} ({of}), which does not tell whether a {what} is within {limit}"
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::statistics::Paired, *};
    use camflow_measure::Measure;

    fn gate(text: &str) -> Gate {
        Gate::parse(Worse::Drop, text).expect("a gate")
    }

    #[test]
    fn gates_are_read() {
        let inside = Quantity::Measure(Measure::EnergyInside);
        let wanted = Gate { worse: Worse::Drop, class: None, quantity: inside, limit: 0.02 };
        assert_eq!(gate("energy_inside=0.02"), wanted);
        assert_eq!(gate("a:b=c:energy_inside=0.02"), Gate { class: Some("a:b=c".into()), ..wanted });
        for (text, said) in [
            ("energy_inside", "MEASURE=NUMBER"),
            ("energy_insid=0.1", "`energy_inside`"),
            ("energy_inside=-0.1", "from 0"),
            ("energy_inside=NaN", "from 0"),
            ("energy_inside=5%", "from 0"),
        ] {
            let error = Gate::parse(Worse::Drop, text).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }

    fn verdict(gate: &Gate, pairs: &[(f64, f64)]) -> Verdict {
        let mut paired = Paired::default();
        pairs.iter().for_each(|(a, b)| paired.add(*a, *b));
        gate.verdict(&paired.difference(false).expect("pairs"))
    }

    #[test]
    fn noise_crosses_nothing_and_a_loss_does() {
        let gate = gate("energy_inside=0.02");
        let loss: Vec<(f64, f64)> = (0..20).map(|n| (0.6, 0.5 - 0.001 * f64::from(n))).collect();
        assert_eq!(verdict(&gate, &loss), Verdict::Crossed);
        let gain: Vec<(f64, f64)> = loss.iter().map(|(a, b)| (*b, *a)).collect();
        assert_eq!(verdict(&gate, &gain), Verdict::Kept);
        assert_eq!(verdict(&Gate { worse: Worse::Rise, ..gate.clone() }, &gain), Verdict::Crossed);
        // The mean fell by more than is allowed, but the pairs vary as much.
        assert_eq!(verdict(&gate, &[(0.6, 0.3), (0.5, 0.7), (0.6, 0.5)]), Verdict::Undecided);
        // Certainly less, and no more than is allowed.
        let little: Vec<(f64, f64)> = (0..20).map(|n| (0.6, 0.59 + 0.0001 * f64::from(n))).collect();
        assert_eq!(verdict(&gate, &little), Verdict::Kept);
        assert_eq!(verdict(&gate, &[(0.6, 0.1)]), Verdict::Undecided);
    }
}
