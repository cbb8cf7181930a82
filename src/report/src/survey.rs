//! What a run would do, as lines and as JSON.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::summary::skipped;
use camflow_pipeline::{Change, Survey};

/// What to print after a survey of a job with so many heatmaps per class.
pub(crate) fn lines(survey: &Survey, num_columns: usize) -> Vec<String> {
    let mut lines = vec![format!(
        "dry run, nothing was changed; {} samples read: {} would be annotated ({} heatmaps), {} skipped, {} would fail",
        survey.num_read,
        survey.num_stale(),
        survey.num_targets * num_columns as u64,
        survey.num_skipped(),
        survey.num_failed,
    )];
    if survey.num_predicted > 0 {
        lines.push(format!("  samples whose predictions would be stored: {}", survey.num_predicted));
    }
    lines.extend(survey.stale.iter().map(|(changes, count)| format!("  {}: {count}", listed(changes))));
    if survey.num_withdrawn > 0 {
        lines.push(format!("  of these would only lose heatmaps, of what is not there any more: {}", survey.num_withdrawn));
    }
    lines.extend(survey.skipped.iter().map(|(reason, count)| format!("  skipped, {reason}: {count}")));
    lines
}

/// The same for machines.
pub(crate) fn json(survey: &Survey, num_columns: usize) -> Value {
    let stale: Map<String, Value> = survey.stale.iter().map(|(changes, count)| (listed(changes), json!(count))).collect();
    json!({
        "num_read": survey.num_read,
        "num_stale": survey.num_stale(),
        "stale": stale,
        "num_heatmaps": survey.num_targets * num_columns as u64,
        "num_predicted": survey.num_predicted,
        "num_withdrawn": survey.num_withdrawn,
        "num_skipped": survey.num_skipped(),
        "skipped": skipped(&survey.skipped),
        "num_failed": survey.num_failed,
        "interrupted": survey.interrupted,
        "elapsed_s": survey.elapsed.as_secs_f64(),
    })
}

/// All of them in one line.
pub(crate) fn listed(changes: &BTreeSet<Change>) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
