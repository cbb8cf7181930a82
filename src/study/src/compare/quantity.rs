//! What is compared of two heatmaps.

use camflow_measure::{Measure, MeasuredHeatmap};
use camflow_names::Choice;

/// A number that both heatmaps of a pair may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// One of the measures.
    Measure(Measure),
    /// Whether the model classifies the image as its label does, 1 or 0.
    Correct,
}

/// What is better of a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More of it.
    Higher,
    /// Less of it.
    Lower,
    /// Neither: it describes.
    Neither,
}

impl Choice for Quantity {
    const ALL: &'static [Self] = &[
        Quantity::Measure(Measure::EnergyInside),
        Quantity::Measure(Measure::EnergyRatio),
        Quantity::Measure(Measure::PointingHit),
        Quantity::Measure(Measure::BestIou),
        Quantity::Measure(Measure::BestThreshold),
        Quantity::Measure(Measure::CenterOffset),
        Quantity::Measure(Measure::ObjectArea),
        Quantity::Measure(Measure::Entropy),
        Quantity::Measure(Measure::RankCorrelation),
        Quantity::Measure(Measure::Confidence),
        Quantity::Measure(Measure::ConfidenceDrop),
        Quantity::Measure(Measure::ConfidenceIncrease),
        Quantity::Measure(Measure::DeletionAuc),
        Quantity::Measure(Measure::InsertionAuc),
        Quantity::Measure(Measure::Road),
        Quantity::Measure(Measure::ConfidenceWithoutObject),
        Quantity::Measure(Measure::ConfidenceWithoutBackground),
        Quantity::Measure(Measure::ConfidenceWithoutAttended),
        Quantity::Measure(Measure::ContextReliance),
        Quantity::Correct,
    ];

    fn name(self) -> &'static str {
        match self {
            Quantity::Measure(measure) => measure.name(),
            Quantity::Correct => "correct",
        }
    }
}

impl Quantity {
    /// Of a heatmap, where it is known.
    pub fn of(self, heatmap: &MeasuredHeatmap) -> Option<f64> {
        match self {
            Quantity::Measure(measure) => heatmap.measures.get(measure),
            Quantity::Correct => heatmap.prediction.as_ref()?.is_correct.map(|yes| f64::from(u8::from(yes))),
        }
    }

    /// Whether it is yes or no rather than a number.
    pub fn is_yes_or_no(self) -> bool {
        match self {
            Quantity::Measure(measure) => measure.is_yes_or_no(),
            Quantity::Correct => true,
        }
    }

    /// Which direction is better, as docs/measures.md has it.
    pub fn better(self) -> Better {
        match self {
            Quantity::Correct => Better::Higher,
            Quantity::Measure(measure) => match measure {
                Measure::EnergyInside | Measure::EnergyRatio | Measure::PointingHit | Measure::BestIou => Better::Higher,
                Measure::ConfidenceIncrease | Measure::InsertionAuc | Measure::Road => Better::Higher,
                Measure::CenterOffset | Measure::ConfidenceDrop | Measure::DeletionAuc | Measure::ContextReliance => {
                    Better::Lower
                }
                Measure::BestThreshold
                | Measure::ObjectArea
                | Measure::Entropy
                | Measure::RankCorrelation
                | Measure::Confidence
                | Measure::ConfidenceWithoutObject
                | Measure::ConfidenceWithoutBackground
                | Measure::ConfidenceWithoutAttended => Better::Neither,
            },
        }
    }

    /// Its place among all of them.
    pub(super) fn index(self) -> usize {
        Quantity::ALL.iter().position(|other| *other == self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_is_compared_in_its_order() {
        let measures: Vec<Measure> = Quantity::ALL
            .iter()
            .filter_map(|quantity| if let Quantity::Measure(measure) = quantity { Some(*measure) } else { None })
            .collect();
        assert_eq!(measures, Measure::ALL);
    }
}
