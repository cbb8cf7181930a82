//! A check as JSON: every figure that there is.

use serde_json::{Value, json};

use super::{
    check::{Check, Thresholds, Verdict},
    found::{CaseCheck, Compared, HeatmapCheck, ModelCheck, Similarity},
    judge::{Summary, overall, summaries},
};
use camflow_names::Choice;

/// All figures, those of single heatmaps included. What is not defined is null.
pub fn check_json(found: &ModelCheck, thresholds: &Thresholds) -> Value {
    let columns = found.columns.iter().enumerate().map(|(index, column)| {
        let summaries = summaries(found, index, thresholds);
        json!({
            "method": column.method, "layer": column.layer, "path": column.path,
            "verdict": overall(&summaries).map(Verdict::name),
            "checks": summaries.iter().map(summary).collect::<serde_json::Map<_, _>>(),
        })
    });
    let threshold = |check: &Check| {
        let threshold = thresholds.of(*check);
        // Infinity is no JSON.
        let fail = threshold.fail.is_finite().then_some(threshold.fail);
        let better = if check.is_better_high() { "higher" } else { "lower" };
        (check.name().to_owned(), json!({"pass": threshold.pass, "fail": fail, "better": better}))
    };
    let steps = found.steps.iter().map(|step| json!({"modules": step.modules, "num_weights": step.num_weights}));
    let pairs = found.pairs.iter().map(|pair| json!({"methods": pair.methods, "layer": pair.layer}));
    json!({
        "model": found.model, "seed": found.seed, "shift": found.shift, "noise": found.noise,
        "thresholds": Check::ALL.iter().map(threshold).collect::<serde_json::Map<_, _>>(),
        "columns": columns.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
        "pairs": pairs.collect::<Vec<_>>(),
        "images": found.cases.iter().map(case).collect::<Vec<_>>(),
        "num_absent": found.num_absent,
    })
}

fn summary(summary: &Summary) -> (String, Value) {
    let Summary { check, figure, count, num_constant, num_moved, num_missing, verdict, reason } = summary;
    let value = json!({
        "verdict": verdict.map(Verdict::name), "figure": figure, "count": count, "num_constant": num_constant,
        "num_moved": num_moved, "num_missing": num_missing, "reason": reason,
    });
    (check.name().to_owned(), value)
}

fn case(case: &CaseCheck) -> Value {
    json!({
        "image": case.image.to_string_lossy(), "name": case.name, "class": case.class, "channel": case.channel,
        "confidence": case.confidence, "heatmaps": case.heatmaps.iter().map(heatmap).collect::<Vec<_>>(),
        "agreements": case.agreements,
    })
}

fn heatmap(heatmap: &HeatmapCheck) -> Value {
    let all = |compared: &[Compared]| compared.iter().map(self::compared).collect::<Vec<_>>();
    let [before, after] = heatmap.entropies;
    json!({
        "is_constant": heatmap.is_constant, "cascading": all(&heatmap.cascading), "independent": all(&heatmap.independent),
        "entropy": before, "entropy_randomised": after, "entropy_rise": heatmap.entropy_rise(),
        "flip": heatmap.flip.as_ref().map(compared), "shifts": all(&heatmap.shifts),
        "noise": heatmap.noise, "avg_sensitivity": heatmap.avg_sensitivity(), "max_sensitivity": heatmap.max_sensitivity(),
        "num_noise_moved": heatmap.num_noise_moved, "repeat": heatmap.repeat, "batch": heatmap.batch,
    })
}

fn compared(compared: &Compared) -> Value {
    let Compared { similarity: Similarity { spearman, pearson, ssim }, is_constant, missing, confidence, is_moved } = compared;
    json!({
        "spearman": spearman, "pearson": pearson, "ssim": ssim, "is_constant": is_constant, "missing": missing,
        "confidence": confidence, "is_moved": is_moved,
    })
}
