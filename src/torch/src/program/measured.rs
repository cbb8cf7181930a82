//! How far the default mode was from 64-bit floats when the archive was run at export, and what follows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much farther from float64 than `--exact` the default may be at an input: this many times...
const FACTOR: f64 = 3.0;

/// ...and so much more.
const MARGIN: f64 = 1e-4;

/// How far the heatmaps of one input are from each other: the largest difference over layers and methods.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deviation {
    /// Rows and columns of the input.
    pub size: [usize; 2],
    /// Those of the default, with batch norms folded and images channels-last, from those of `--exact`.
    pub apart: f64,
    /// Both from those in 64-bit floats; not asked for where the two are so near each other that the default is within its bound.
    pub from_float64: Option<FromFloat64>,
}

/// How far heatmaps are from those in 64-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromFloat64 {
    /// Those of the default.
    pub default: f64,
    /// Those of the operators of PyTorch.
    pub exact: f64,
}

impl Deviation {
    /// Whether the default can be no farther from 64-bit floats than `--exact` and the margin, by the distance between the two.
    pub fn is_close(&self) -> bool {
        self.apart <= MARGIN
    }

    /// Whether the default is about as near to 64-bit floats as PyTorch's own 32 bits are. A NaN is not.
    pub fn is_bounded(&self) -> bool {
        self.is_close() || self.from_float64.is_some_and(|from| from.default <= FACTOR * from.exact + MARGIN)
    }
}

/// What is known of a model's default mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DefaultMode {
    /// Within the bound at so many inputs.
    Bounded {
        /// How many were tried.
        num_inputs: usize,
        /// The one at which it was farthest from `--exact`.
        worst: Deviation,
    },
    /// The bound was missed at this input.
    Missed(Deviation),
    /// Nothing could be measured at export.
    Unmeasurable,
    /// The archive is of an exporter that did not measure.
    Unknown,
}

impl DefaultMode {
    /// What the figures say.
    pub fn of(measured: Option<&[Deviation]>) -> DefaultMode {
        let Some(measured) = measured else { return DefaultMode::Unknown };
        if let Some(missed) = measured.iter().find(|deviation| !deviation.is_bounded()) {
            return DefaultMode::Missed(*missed);
        }
        match measured.iter().max_by(|a, b| a.apart.total_cmp(&b.apart)) {
            Some(worst) => DefaultMode::Bounded { num_inputs: measured.len(), worst: *worst },
            None => DefaultMode::Unmeasurable,
        }
    }

    /// Whether the model is run with the operators of PyTorch although nobody asked for it.
    pub fn is_exact(self) -> bool {
        matches!(self, DefaultMode::Missed(_) | DefaultMode::Unmeasurable)
    }
}

impl fmt::Display for DefaultMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = |Deviation { size: [height, width], apart, from_float64 }: &Deviation| match from_float64 {
            Some(FromFloat64 { default, exact }) => {
                format!("{default:.1e} from float64 at an input of {height}x{width}, where `--exact` is {exact:.1e} away")
            }
            None => format!("{apart:.1e} from it at an input of {height}x{width}"),
        };
        match self {
            DefaultMode::Bounded { num_inputs, worst } => {
                write!(f, "faster than `--exact`; of {num_inputs} inputs the farthest was {}", figures(worst))
            }
            DefaultMode::Missed(missed) => {
                write!(f, "the same as `--exact`, as the faster way (`--fast`) was {}", figures(missed))
            }
            DefaultMode::Unmeasurable => f.write_str(
                "the same as `--exact`, as the distance from float64 of the faster way (`--fast`) could not be measured",
            ),
            DefaultMode::Unknown => f.write_str("faster than `--exact`; its distance from float64 was not measured at export"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[(f64, f64)]) -> DefaultMode {
        let deviation = |&(default, exact): &(f64, f64)| Deviation {
            size: [4, 6],
            apart: default,
            from_float64: (default > 5e-5).then_some(FromFloat64 { default, exact }),
        };
        DefaultMode::of(Some(&figures.iter().map(deviation).collect::<Vec<_>>()))
    }

    #[test]
    fn the_default_holds_where_all_inputs_are_within_the_bound() {
        let held = of(&[(1e-6, 2e-6), (6.09e-3, 2e-3)]);
        assert!(matches!(held, DefaultMode::Bounded { num_inputs: 2, worst } if worst.apart == 6.09e-3), "{held}");
        let missed = of(&[(1e-6, 2e-6), (1.9e-3, 7.7e-7)]);
        assert!(missed.is_exact() && missed.to_string().contains("1.9e-3 from float64 at an input of 4x6"), "{missed}");
        assert!(of(&[(f64::NAN, 1.0)]).is_exact() && of(&[]).is_exact());
        let unasked = Deviation { size: [4, 6], apart: 2e-4, from_float64: None };
        assert!(DefaultMode::of(Some(&[unasked])).is_exact(), "nothing says that it is within the bound");
        assert_eq!((DefaultMode::of(None), DefaultMode::of(None).is_exact()), (DefaultMode::Unknown, false));
    }
}
