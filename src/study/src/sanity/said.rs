//! A check in words: a table of 80 columns for each method and layer, and what it means.

use super::{
    check::{Check, Threshold, Thresholds, Verdict},
    found::{CheckedColumn, Compared, HeatmapCheck, ModelCheck, Similarity, mean},
    judge::{Summary, overall, summaries},
};
use camflow_names::{Choice, counted};

/// As wide as a terminal at least is.
const WIDTH: usize = 80;

/// What was found, line by line.
pub fn check_lines(found: &ModelCheck, thresholds: &Thresholds) -> Vec<String> {
    let mut lines = Vec::new();
    // Of an embedding or a measured number nobody can say whether it is another answer.
    let has_answer = found.cases.iter().any(|case| case.confidence.is_some());
    for (index, column) in found.columns.iter().enumerate() {
        let summaries = summaries(found, index, thresholds);
        lines.push(heading(column, overall(&summaries)));
        lines.push(row(["check", "verdict", "figure", "wanted", "what the figure is"]));
        for summary in &summaries {
            let verdict = summary.verdict.map_or("not made", Verdict::name);
            let figure = summary.figure.map_or_else(|| "-".to_owned(), short);
            let wanted = thresholds.of(summary.check).pass;
            let wanted = format!("{} {}", if summary.check.is_better_high() { ">=" } else { "<=" }, plain(wanted));
            lines.push(row([summary.check.name(), verdict, &figure, &wanted, &figure_text(found, summary.check)]));
        }
        lines.extend(steps(found, index));
        lines.extend(summaries.iter().flat_map(|summary| notes(found, index, summary)).map(|note| format!("note: {note}")));
        lines.extend(summaries.iter().filter_map(|summary| meaning(summary, thresholds, has_answer)));
        lines.push(conclusion(column, &summaries));
    }
    lines
}

fn heading(column: &CheckedColumn, verdict: Option<Verdict>) -> String {
    format!("{}: {}", column_name(column), verdict.map_or("not checked", Verdict::name))
}

fn column_name(column: &CheckedColumn) -> String {
    if column.layer == column.path {
        format!("`{}` at layer `{}`", column.method, column.layer)
    } else {
        format!("`{}` at layer `{}` (`{}`)", column.method, column.layer, column.path)
    }
}

fn row([check, verdict, figure, wanted, what]: [&str; 5]) -> String {
    let line = format!("  {check:<13} {verdict:<8} {figure:>8} {wanted:>9}  {what}");
    line.trim_end().to_owned()
}

/// In at most eight characters.
fn short(figure: f64) -> String {
    if figure == 0.0 {
        "0".to_owned()
    } else if figure.abs() < 1e-3 {
        format!("{figure:.1e}")
    } else {
        format!("{figure:.3}")
    }
}

/// A threshold as it would be typed.
fn plain(threshold: f64) -> String {
    if threshold != 0.0 && threshold.abs() < 1e-3 { format!("{threshold:e}") } else { threshold.to_string() }
}

fn figure_text(found: &ModelCheck, check: Check) -> String {
    match check {
        Check::Randomisation => "rank correlation, weights random".to_owned(),
        Check::Output => "rank correlation, top ones random".to_owned(),
        Check::Flip => "rank correlation, image mirrored".to_owned(),
        Check::Shift => format!("rank correlation, shifted by {}", found.shift),
        Check::Noise => format!("mean change by noise of {}", found.noise),
        Check::Agreement => "rank correlation, other methods".to_owned(),
        Check::Repeat => "largest difference, again".to_owned(),
        Check::Batch => "largest difference, in a batch".to_owned(),
    }
}

/// The way down from the output.
fn steps(found: &ModelCheck, column: usize) -> Vec<String> {
    if found.steps.is_empty() {
        return Vec::new();
    }
    let has_independent = found.heatmaps(column).any(|heatmap| !heatmap.independent.is_empty());
    // "  LABEL    of  spearman   pearson      ssim     alone"
    let numbers = if has_independent { 4 } else { 3 };
    let width = WIDTH - 2 - 6 - numbers * 10;
    let line = |label: &str, cells: &[String]| {
        let label: String = match label.chars().count() {
            long if long > width => label.chars().take(width - 3).chain("...".chars()).collect(),
            _ => label.to_owned(),
        };
        let (count, numbers) = cells.split_first().map_or(("", cells), |(first, rest)| (first.as_str(), rest));
        let numbers: String = numbers.iter().map(|cell| format!("  {cell:>8}")).collect();
        format!("  {label:<width$}  {count:>4}{numbers}")
    };
    let mut head: Vec<String> = ["of", "spearman", "pearson", "ssim"].map(str::to_owned).to_vec();
    head.extend(has_independent.then(|| "alone".to_owned()));
    let mut lines = vec![line("weights randomised down to", &head)];
    for (index, step) in found.steps.iter().enumerate() {
        let shown = || found.heatmaps(column).filter(|heatmap| !heatmap.is_constant);
        let has_map = |heatmap: &&HeatmapCheck| heatmap.cascading.get(index).is_some_and(|one| one.similarity.spearman.is_some());
        let count = shown().filter(has_map).count();
        let of = |number: fn(&Similarity) -> Option<f64>, independent: bool| {
            let own =
                shown().filter_map(|heatmap| if independent { &heatmap.independent } else { &heatmap.cascading }.get(index));
            let mean = mean(own.filter_map(|compared| number(&compared.similarity)));
            mean.map_or_else(|| "-".to_owned(), |(mean, _)| format!("{mean:.3}"))
        };
        let mut cells =
            vec![count.to_string(), of(|one| one.spearman, false), of(|one| one.pearson, false), of(|one| one.ssim, false)];
        if has_independent {
            cells.push(of(|one| one.spearman, true));
        }
        lines.push(line(&step.label(), &cells));
    }
    lines
}

/// What was left out of a figure, lowercase, without a period.
fn notes(found: &ModelCheck, column: usize, summary: &Summary) -> Vec<String> {
    let name = summary.check.name();
    let heatmaps = |count: usize| counted(count, "heatmap", "heatmaps");
    let mut notes = Vec::new();
    if let (None, Some(reason)) = (summary.verdict, &summary.reason) {
        notes.push(format!("{name} not made: {reason}"));
    }
    if summary.num_moved > 0 {
        let of = match summary.check {
            Check::Noise => {
                let draws: usize = found.heatmaps(column).map(|heatmap| heatmap.noise.len()).sum();
                format!("{} of {draws} draws of noise, which count all the same", summary.num_moved)
            }
            _ => {
                let images = counted(summary.num_moved, "changed image", "changed images");
                format!("{images}, left out")
            }
        };
        notes.push(format!("{name}: the model's own answer is another one in {of}"));
    }
    if summary.num_constant > 0 {
        notes.push(format!(
            "{name}: {} the same everywhere then, without a correlation: nothing is left of {}",
            heatmaps(summary.num_constant) + if summary.num_constant == 1 { " is" } else { " are" },
            if summary.num_constant == 1 { "it" } else { "them" }
        ));
    }
    if summary.num_missing > 0 {
        let why = found.heatmaps(column).flat_map(comparisons).find_map(|compared| compared.missing.clone());
        notes.push(format!("{name}: {} not made: {}", heatmaps(summary.num_missing), why.unwrap_or_default()));
    }
    if summary.check == Check::Randomisation {
        let num_constant = found.heatmaps(column).filter(|heatmap| heatmap.is_constant).count();
        if num_constant > 0 && num_constant < found.cases.len() {
            notes.push(format!("{} the same everywhere, and in no figure", heatmaps(num_constant) + " of the model itself"));
        }
        let rise = mean(found.heatmaps(column).filter_map(|heatmap| heatmap.entropy_rise()));
        if let Some((rise, _)) = rise {
            notes.push(format!(
                "the heatmaps' entropy changes by {:+.1} % with all weights random (efficient MPRT)",
                100.0 * rise
            ));
        }
    }
    notes
}

fn comparisons(heatmap: &HeatmapCheck) -> impl Iterator<Item = &Compared> {
    heatmap.cascading.iter().chain(&heatmap.flip).chain(&heatmap.shifts)
}

/// How a sentence ends about a changed image.
const SAME_ANSWER: &str = ", although the model's answer is the same";

/// What a verdict that is not good means, in one sentence without a period.
fn meaning(summary: &Summary, thresholds: &Thresholds, has_answer: bool) -> Option<String> {
    let verdict = summary.verdict.filter(|verdict| *verdict != Verdict::Passed)?;
    let is_failed = verdict == Verdict::Failed;
    let Threshold { pass, fail } = thresholds.of(summary.check);
    let text = match (summary.check, is_failed) {
        (Check::Randomisation, true) => {
            "the heatmaps hardly change when everything that the model has learnt is randomised: they do not show what it has learnt"
        }
        (Check::Randomisation, false) => {
            "much of the heatmaps stays when everything that the model has learnt is randomised: that part shows the image, not the model"
        }
        (Check::Output, _) => {
            "the heatmaps stay as they are when the weights nearest to the output are randomised: they do not depend on which class is explained"
        }
        (Check::Flip, true) => "the heatmap of the mirrored image is another one, although the model's answer is the same",
        (Check::Flip, false) => "the heatmap of the mirrored image is only partly the mirrored heatmap",
        (Check::Shift, true) => "a shift by a few pixels makes another heatmap, although the model's answer is the same",
        (Check::Shift, false) => "a shift by a few pixels changes the heatmap more than it should",
        (Check::Noise, true) => "noise that is hardly seen makes another heatmap",
        (Check::Noise, false) => "noise that is hardly seen changes the heatmap more than it should",
        (Check::Agreement, true) => "other methods show something else: do not rely on one of them",
        (Check::Agreement, false) => "other methods show something else in part: compare them before relying on one",
        (Check::Repeat, _) => "the same image gives another heatmap when it is explained again",
        (Check::Batch, _) => "a heatmap depends on which images are in its batch: `--batch-size 1` keeps them apart",
    };
    let text = if has_answer { text } else { text.trim_end_matches(SAME_ANSWER) };
    let figure = summary.figure.map_or_else(|| "nothing left".to_owned(), short);
    let limit = plain(if is_failed { fail } else { pass });
    let side = if summary.check.is_better_high() { "below" } else { "above" };
    Some(format!("{} {}: {text} ({figure}, {side} {limit})", summary.check.name(), verdict.name()))
}

fn conclusion(column: &CheckedColumn, summaries: &[Summary]) -> String {
    let name = column_name(column);
    let names = |verdict: Option<Verdict>| {
        let own = summaries.iter().filter(|summary| summary.verdict == verdict).map(|summary| summary.check.name());
        own.collect::<Vec<_>>().join(", ")
    };
    let not_made = names(None);
    let rest = if not_made.is_empty() { String::new() } else { format!("; not made: {not_made}") };
    match overall(summaries) {
        None => format!("{name}: nothing could be checked"),
        Some(Verdict::Passed) => format!("{name} passed: nothing speaks against its heatmaps{rest}"),
        Some(Verdict::Weak) => {
            format!("{name} is weak in {}: read its heatmaps with that in mind{rest}", names(Some(Verdict::Weak)))
        }
        Some(Verdict::Failed) => {
            format!("{name} failed {}: do not rely on its heatmaps for this model{rest}", names(Some(Verdict::Failed)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn found() -> ModelCheck {
        let compared = |spearman: f64| Compared {
            similarity: Similarity { spearman: Some(spearman), pearson: Some(spearman), ssim: Some(spearman) },
            ..Compared::default()
        };
        let heatmap = HeatmapCheck {
            cascading: vec![compared(1.0), compared(0.95)],
            flip: Some(Compared { is_moved: true, ..compared(0.1) }),
            shifts: vec![compared(0.8)],
            noise: vec![Some(0.1), Some(0.3)],
            repeat: Some(0.0),
            ..HeatmapCheck::default()
        };
        let step = |module: &str| RandomisedStep { modules: vec![module.into()], num_weights: 10 };
        ModelCheck {
            columns: vec![CheckedColumn { method: "gradcam".into(), layer: "4".into(), path: "layer4".into() }],
            steps: vec![step("fc"), step(&"very.long.path".repeat(9))],
            cases: vec![testing::case(heatmap)],
            reasons: vec![(Check::Agreement, "no other method is named".into())],
            shift: 8,
            noise: 0.2,
            ..ModelCheck::default()
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_says_what_failed() {
        let lines = check_lines(&found(), &Thresholds::default());
        let is_table = |line: &&String| line.starts_with("  ");
        assert!(lines.iter().filter(is_table).all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        let text = lines.join("\n");
        for said in [
            "`gradcam` at layer `4` (`layer4`): failed",
            "randomisation failed      0.950    <= 0.5  rank correlation, weights random",
            "fc ",
            "note: flip not made: the model's own answer is another one in every changed image",
            "note: agreement not made: no other method is named",
            "randomisation failed: the heatmaps hardly change",
            "output weak: ",
            "failed randomisation: do not rely on its heatmaps for this model; not made: flip, agreement, batch",
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
    }
}
