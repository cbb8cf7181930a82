//! From figures to verdicts.

use super::{
    check::{Check, Threshold, Thresholds, Verdict},
    found::{Compared, HeatmapCheck, ModelCheck, mean},
};
use camflow_names::Choice;

/// What a check came to in one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Which.
    pub check: Check,
    /// The mean over heatmaps; of `repeat` and `batch` the largest. `None` where nothing could be compared.
    pub figure: Option<f64>,
    /// How many heatmaps that is of.
    pub count: usize,
    /// Heatmaps that are the same everywhere after the change, so that nothing is left of what they showed. They have no correlation, and
    /// are in no mean.
    pub num_constant: usize,
    /// Changes at which the model's own answer was another one, which is not the method's doing: left out.
    pub num_moved: usize,
    /// Comparisons for which there was no changed map.
    pub num_missing: usize,
    /// What that means; `None` where the check was not made.
    pub verdict: Option<Verdict>,
    /// Why it was not made.
    pub reason: Option<String>,
}

/// The checks of one column, in order.
pub fn summaries(found: &ModelCheck, column: usize, thresholds: &Thresholds) -> Vec<Summary> {
    Check::ALL.iter().map(|check| summary(found, column, *check, thresholds.of(*check))).collect()
}

/// The worst verdict; `None` where no check was made.
pub fn overall(summaries: &[Summary]) -> Option<Verdict> {
    summaries.iter().filter_map(|summary| summary.verdict).max()
}

fn summary(found: &ModelCheck, column: usize, check: Check, threshold: Threshold) -> Summary {
    let mut summary = Summary {
        check,
        figure: None,
        count: 0,
        num_constant: 0,
        num_moved: 0,
        num_missing: 0,
        verdict: None,
        reason: found.reasons.iter().find(|(of, _)| *of == check).map(|(_, reason)| reason.clone()),
    };
    // A heatmap that is the same everywhere has nothing to lose.
    let shown = || found.heatmaps(column).filter(|heatmap| !heatmap.is_constant);
    let figure = match check {
        Check::Randomisation => correlated(shown().filter_map(|heatmap| heatmap.cascading.last()), &mut summary),
        Check::Output => correlated(shown().filter_map(|heatmap| heatmap.cascading.first()), &mut summary),
        Check::Flip => correlated(shown().filter_map(|heatmap| heatmap.flip.as_ref()), &mut summary),
        Check::Shift => correlated(shown().flat_map(|heatmap| &heatmap.shifts), &mut summary),
        Check::Noise => {
            summary.num_moved = shown().map(|heatmap| heatmap.num_noise_moved).sum();
            mean(shown().filter_map(HeatmapCheck::avg_sensitivity))
        }
        Check::Agreement => mean(agreements(found, column)),
        Check::Repeat => largest(shown().filter_map(|heatmap| heatmap.repeat)),
        Check::Batch => largest(shown().filter_map(|heatmap| heatmap.batch)),
    };
    if let Some((figure, count)) = figure {
        summary.figure = Some(figure);
        summary.count = count;
        summary.verdict = Some(threshold.verdict(check, figure));
    } else if summary.num_constant > 0 {
        // All of them vanished: nothing is as it was.
        let is_good = matches!(check, Check::Randomisation | Check::Output);
        summary.verdict = Some(if is_good { Verdict::Passed } else { Verdict::Failed });
    } else if summary.reason.is_none() {
        summary.reason = Some(why_not(found, column, &summary));
    }
    summary
}

fn why_not(found: &ModelCheck, column: usize, summary: &Summary) -> String {
    if found.heatmaps(column).all(|heatmap| heatmap.is_constant) {
        "every heatmap is the same everywhere".to_owned()
    } else if summary.num_moved > 0 {
        "the model's own answer is another one in every changed image".to_owned()
    } else {
        "there is no changed heatmap to compare with".to_owned()
    }
}

/// The mean rank correlation of those whose answer stayed, and of how many; the others are counted.
fn correlated<'a>(compared: impl Iterator<Item = &'a Compared>, summary: &mut Summary) -> Option<(f64, usize)> {
    let mut values = Vec::new();
    for one in compared {
        if one.missing.is_some() {
            summary.num_missing += 1;
        } else if one.is_moved {
            summary.num_moved += 1;
        } else if one.is_constant {
            summary.num_constant += 1;
        } else {
            values.extend(one.similarity.spearman);
        }
    }
    mean(values.into_iter())
}

/// The correlations with other methods at the column's layer.
fn agreements(found: &ModelCheck, column: usize) -> impl Iterator<Item = f64> {
    let of = &found.columns[column];
    let is_own = move |place: &usize| found.pairs[*place].layer == of.layer && found.pairs[*place].methods.contains(&of.method);
    let places: Vec<usize> = (0..found.pairs.len()).filter(is_own).collect();
    found.cases.iter().flat_map(move |case| places.clone().into_iter().filter_map(|place| case.agreements.get(place).copied()?))
}

fn largest(values: impl Iterator<Item = f64>) -> Option<(f64, usize)> {
    values.fold(None, |most, value| Some(most.map_or((value, 1), |(most, count): (f64, usize)| (most.max(value), count + 1))))
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn compared(spearman: f64) -> Compared {
        Compared { similarity: Similarity { spearman: Some(spearman), ..Similarity::default() }, ..Compared::default() }
    }

    fn found(heatmaps: Vec<HeatmapCheck>) -> ModelCheck {
        let column = CheckedColumn { method: "gradcam".into(), layer: "4".into(), path: "layer4".into() };
        ModelCheck { columns: vec![column], cases: heatmaps.into_iter().map(testing::case).collect(), ..ModelCheck::default() }
    }

    fn of(found: &ModelCheck, check: Check) -> Summary {
        summaries(found, 0, &Thresholds::default()).swap_remove(check as usize)
    }

    #[test]
    fn what_has_no_correlation_is_counted_and_in_no_mean() {
        let vanished = Compared { is_constant: true, ..Compared::default() };
        let kept = HeatmapCheck { cascading: vec![compared(1.0), compared(0.2)], ..HeatmapCheck::default() };
        let lost = HeatmapCheck { cascading: vec![compared(0.5), vanished.clone()], ..HeatmapCheck::default() };
        let empty = HeatmapCheck { is_constant: true, cascading: vec![vanished.clone(); 2], ..HeatmapCheck::default() };
        let summary = of(&found(vec![kept, lost.clone(), empty.clone()]), Check::Randomisation);
        assert_eq!((summary.figure, summary.count, summary.num_constant), (Some(0.2), 1, 1));
        // All that vanish have changed, all that were empty have not.
        let summary = of(&found(vec![lost]), Check::Randomisation);
        assert_eq!((summary.figure, summary.verdict), (None, Some(Verdict::Passed)));
        let summary = of(&found(vec![empty]), Check::Randomisation);
        assert_eq!((summary.verdict, summary.reason.as_deref()), (None, Some("every heatmap is the same everywhere")));
    }

    #[test]
    fn a_changed_prediction_is_not_blamed_on_the_method() {
        let moved = Compared { is_moved: true, ..compared(-0.9) };
        let heatmap = |flip: Compared| HeatmapCheck { flip: Some(flip), ..HeatmapCheck::default() };
        let summary = of(&found(vec![heatmap(moved.clone()), heatmap(compared(0.8))]), Check::Flip);
        assert_eq!((summary.figure, summary.num_moved, summary.verdict), (Some(0.8), 1, Some(Verdict::Passed)));
        let summary = of(&found(vec![heatmap(moved)]), Check::Flip);
        assert_eq!((summary.verdict, summary.num_moved), (None, 1));
        assert!(summary.reason.expect("a reason").contains("own answer"));
    }

    #[test]
    fn differences_count_by_the_largest_and_the_worst_verdict_is_the_overall_one() {
        let heatmap = |repeat: f64| HeatmapCheck { repeat: Some(repeat), flip: Some(compared(0.9)), ..HeatmapCheck::default() };
        let found = found(vec![heatmap(0.0), heatmap(0.01)]);
        let all = summaries(&found, 0, &Thresholds::default());
        assert_eq!(
            (all[Check::Repeat as usize].figure, all[Check::Repeat as usize].verdict),
            (Some(0.01), Some(Verdict::Failed))
        );
        assert_eq!(overall(&all), Some(Verdict::Failed));
        assert_eq!(overall(&all[..2]), None);
    }
}
