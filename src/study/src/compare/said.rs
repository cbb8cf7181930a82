//! What a comparison says, in plain sentences.

use std::collections::BTreeMap;

use super::{
    comparison::{Comparison, PairedSeries, Row},
    quantity::{Better, Quantity},
};
use crate::findings::{ENOUGH, Finding, Severity};
use camflow_measure::{Measure, Series};
use camflow_names::Choice;

/// Maps that share less of their energy than this look at other things.
const ELSEWHERE: f64 = 0.5;
/// Sentences of one kind; the tables have all of it.
const MOST: usize = 8;

/// What a pair of series is called: by its class and layer, and by the field of A where that is not enough.
#[derive(Clone, Debug)]
pub(crate) struct PairNames {
    needs_fields: bool,
}

impl PairNames {
    /// For the series of a comparison.
    pub(crate) fn of(comparison: &Comparison) -> Self {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for (a, b) in comparison.series.keys() {
            *counts.entry((&a.class, &a.layer, &b.layer)).or_default() += 1;
        }
        PairNames { needs_fields: counts.values().any(|count| *count > 1) }
    }

    /// With names in backticks.
    pub(crate) fn name(&self, (a, b): &(Series, Series)) -> String {
        let mut name = match a.layer == b.layer {
            true => format!("`{}` at `{}`", a.class, a.layer),
            false => format!("`{}` at `{}` of A and `{}` of B", a.class, a.layer, b.layer),
        };
        if self.needs_fields {
            name += &format!(" in `{}`", a.field);
        }
        name
    }
}

/// What stands out, the most important first.
pub fn said(comparison: &Comparison) -> Vec<Finding> {
    let names = PairNames::of(comparison);
    let rows = comparison.rows();
    let mut found = Vec::new();
    if comparison.num_pairs < ENOUGH {
        found.push(finding("few", format!("{} pairs are too few to say anything of the rest.", comparison.num_pairs)));
        return found;
    }
    if comparison.maps.num_read > 0 && comparison.maps.num_identical == comparison.maps.num_read {
        found.push(finding(
            "same",
            format!("The heatmaps of A and B are the same, level by level, in all {} pairs.", comparison.maps.num_read),
        ));
    }
    found.extend(differences(comparison, &rows, &names));
    found.extend(elsewhere(comparison, &names));
    found.extend(empty(comparison, &names));
    found.extend(rest(comparison, &rows));
    found
}

fn finding(kind: &'static str, text: String) -> Finding {
    Finding::new(kind, Severity::Note, text)
}

/// Measures that differ clearly and not by little: of each series that which samples are ranked by, and the one that differs most.
fn differences(comparison: &Comparison, rows: &[Row<'_>], names: &PairNames) -> Vec<Finding> {
    let is_worth = |row: &&Row<'_>| {
        row.is_clear() && !row.is_small() && row.difference.num >= ENOUGH && row.quantity.better() != Better::Neither
    };
    let effect = |row: &Row<'_>| row.difference.effect.map_or(f64::INFINITY, f64::abs);
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for series in comparison.series.keys() {
        let of_series: Vec<&Row<'_>> = rows.iter().filter(|row| row.series == Some(series)).filter(is_worth).collect();
        let most = of_series.iter().max_by(|a, b| effect(a).total_cmp(&effect(b)));
        let Some(row) = of_series.iter().find(|row| row.quantity == comparison.ranked_by).or(most) else { continue };
        let difference = row.difference;
        let (lower, num) = match difference.mean < 0.0 {
            true => ("lower", difference.num_lower),
            false => ("higher", difference.num_higher),
        };
        let is_worse = (difference.mean < 0.0) == (row.quantity.better() == Better::Higher);
        let text = format!(
            "{}: `{}` is {lower} in B, {:.3} against {:.3} in A: {}, {lower} in {num} of {} pairs. {}",
            names.name(series),
            row.quantity.name(),
            difference.means[1],
            difference.means[0],
            interval(row),
            difference.num,
            meaning(row.quantity, is_worse),
        );
        let changed = if difference.mean < 0.0 { &comparison.fell } else { &comparison.rose };
        let is_shown = row.quantity == comparison.ranked_by;
        let samples = changed.iter().filter(|changed| is_shown && changed.a.series == series.0 && changed.b.series == series.1);
        let (kind, severity) = if is_worse { ("worse", Severity::Problem) } else { ("better", Severity::Note) };
        found.push((effect(row), Finding::new(kind, severity, text).shown_by(samples)));
    }
    // What became worse comes first.
    found.sort_by(|a, b| (a.1.kind != "worse").cmp(&(b.1.kind != "worse")).then(b.0.total_cmp(&a.0)));
    found.into_iter().map(|(_, finding)| finding).take(MOST).collect()
}

fn meaning(quantity: Quantity, is_worse: bool) -> &'static str {
    match (quantity, is_worse) {
        (Quantity::Measure(Measure::EnergyInside | Measure::EnergyRatio), true) => "B looks less at the object.",
        (Quantity::Measure(Measure::EnergyInside | Measure::EnergyRatio), false) => "B looks more at the object.",
        (Quantity::Measure(Measure::BestIou), true) => "B's heatmaps fit the object less.",
        (Quantity::Measure(Measure::BestIou), false) => "B's heatmaps fit the object better.",
        (Quantity::Correct, true) => "B misclassifies more.",
        (Quantity::Correct, false) => "B misclassifies less.",
        (_, true) => "That is worse.",
        (_, false) => "That is better.",
    }
}

/// A difference with its interval, in words.
pub(crate) fn interval(row: &Row<'_>) -> String {
    match row.difference.interval {
        Some([low, high]) => format!("a difference of {:+.3} (95 % interval {low:+.3} to {high:+.3})", row.difference.mean),
        None => format!("a difference of {:+.3}", row.difference.mean),
    }
}

/// Maps that lie elsewhere, of whatever they are measured on.
fn elsewhere(comparison: &Comparison, names: &PairNames) -> Vec<Finding> {
    let overlap = |series: &PairedSeries| series.maps.overlap.mean().filter(|_| series.maps.overlap.count() >= ENOUGH);
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for (series, paired) in &comparison.series {
        let Some(mean) = overlap(paired).filter(|mean| *mean < ELSEWHERE) else { continue };
        let rank = paired.maps.rank_correlation.mean().map_or_else(String::new, |rank| {
            // No minus before nothing.
            format!(" (mean rank correlation {:.2})", (100.0 * rank).round() / 100.0 + 0.0)
        });
        let text = format!(
            "{}: heatmaps of A and B lie on other parts of the image: on the average {:.0} % of their energy is in the same places{rank}.",
            names.name(series),
            100.0 * mean,
        );
        let samples = comparison.moved.iter().filter(|changed| changed.a.series == series.0 && changed.b.series == series.1);
        found.push((mean, Finding::new("elsewhere", Severity::Warning, text).shown_by(samples)));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().map(|(_, finding)| finding).take(MOST).collect()
}

fn empty(comparison: &Comparison, names: &PairNames) -> Vec<Finding> {
    let of_series = |(series, paired): (&(Series, Series), &PairedSeries)| {
        let [only_a, only_b] = paired.num_empty;
        let text = |which: &str, num: u64| {
            let num_pairs = paired.num_pairs;
            finding(
                "empty",
                format!("{}: {num} of {num_pairs} heatmaps are zero everywhere in {which} alone.", names.name(series)),
            )
        };
        let both = [("A", only_a), ("B", only_b)].into_iter().filter(|(_, num)| *num > 0);
        both.map(|(which, num)| text(which, num)).collect::<Vec<_>>()
    };
    comparison.series.iter().flat_map(of_series).take(MOST).collect()
}

/// What was found of the other rows.
fn rest(comparison: &Comparison, rows: &[Row<'_>]) -> Option<Finding> {
    let num_clear = rows.iter().filter(|row| row.is_clear()).count();
    let num_small = rows.iter().filter(|row| row.is_clear() && row.is_small()).count();
    if rows.is_empty() {
        return None;
    }
    let (kind, text) = match (num_clear, num_small) {
        (0, _) => (
            "none",
            format!(
                "No measure differs clearly between A and B ({} tests, Holm, 5 %). The intervals say how large a difference may be all \
                 the same.",
                rows.len()
            ),
        ),
        (clear, 0) => ("clear", format!("Of {} differences {clear} are clear (Holm, 5 %).", rows.len())),
        (clear, small) => (
            "clear",
            format!(
                "Of {} differences {clear} are clear (Holm, 5 %), and {small} of these small against how much pairs vary (less than 0.2 \
                 standard deviations).",
                rows.len()
            ),
        ),
    };
    (comparison.num_pairs > 0).then(|| finding(kind, text))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::comparison::HeatmapPair;
    use super::super::maps::MapPair;
    use super::*;
    use camflow_measure::{MeasuredHeatmap, MeasuredSample, Measures};

    pub(crate) fn heatmap(field: &str, class: &str, inside: f64) -> MeasuredHeatmap {
        MeasuredHeatmap {
            series: Series {
                field: field.into(),
                class: class.into(),
                layer: "layer4".into(),
                method: "gradcam".into(),
                model: field.into(),
            },
            measures: Measures::default().with(Measure::EnergyInside, inside).with(Measure::Entropy, 0.5),
            ..MeasuredHeatmap::default()
        }
    }

    /// B looks less at dogs, and as much at cats.
    pub(crate) fn comparison(num: u32) -> Comparison {
        let mut comparison = Comparison::new(Quantity::Measure(Measure::EnergyInside), 2);
        for id in 0..num {
            let sample = MeasuredSample { id: format!("{id:024x}"), ..MeasuredSample::default() };
            let vary = 0.01 * f64::from(id);
            let pair = |class: &str, a: f64, b: f64| HeatmapPair {
                a: heatmap(&format!("{class}_a"), class, a),
                b: heatmap(&format!("{class}_b"), class, b),
                maps: MapPair::Unread,
            };
            let sign = if id % 2 == 0 { 1.0 } else { -1.0 };
            comparison.observe(&sample, &[pair("dog", 0.7, 0.4 + vary), pair("cat", 0.5 + sign * vary, 0.5)]);
        }
        comparison
    }

    #[test]
    fn what_became_worse_is_said_first_and_with_its_samples() {
        let comparison = comparison(10);
        let found = said(&comparison);
        assert_eq!(found[0].kind, "worse", "{found:?}");
        assert!(found[0].text.starts_with("`dog` at `layer4`: `energy_inside` is lower in B"), "{}", found[0].text);
        assert!(found[0].text.contains("lower in 10 of 10 pairs. B looks less at the object."), "{}", found[0].text);
        let samples: Vec<&str> = found[0].examples.iter().map(|example| &*example.sample).collect();
        assert_eq!(samples, [format!("{:024x}", 0), format!("{:024x}", 1)]);
        assert!(found.iter().all(|finding| !finding.text.starts_with("`cat`")), "noise is no finding: {found:?}");
        assert_eq!(said(&super::tests::comparison(2))[0].kind, "few");
    }

    #[test]
    fn a_sample_is_one_observation_however_many_heatmaps_it_has() {
        let comparison = comparison(10);
        let total = comparison.total(comparison.ranked_by, None).expect("pairs");
        let dogs = comparison.total(comparison.ranked_by, Some("dog")).expect("pairs");
        assert_eq!((total.num, dogs.num, comparison.num_pairs), (10, 10, 20));
        assert!((dogs.mean - (-0.255)).abs() < 1e-12 && (total.means[0] - (1.2 + -0.005) / 2.0).abs() < 1e-12, "{total:?}");
        assert_eq!(comparison.total(comparison.ranked_by, Some("bird")), None);
        assert_eq!(comparison.ranking()[0], format!("{:024x}", 0));
        assert_eq!((comparison.fell.len(), comparison.rose.len(), comparison.moved.len()), (2, 2, 0));
    }
}
