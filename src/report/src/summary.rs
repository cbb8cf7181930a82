//! The last words of a run, as lines and as JSON.

use std::{collections::BTreeMap, path::PathBuf};

use bytesize::ByteSize;
use indicatif::HumanDuration;
use serde_json::{Value, json};

use super::errors::error_text;
use camflow_diagnostic::Diagnose;
use camflow_names::shown;
use camflow_pipeline::{Forecast, Outlook, RunError, SkipReason, Stage, Summary};

/// What to print after a run.
pub(crate) fn lines(summary: &Summary) -> Vec<String> {
    let seconds = summary.elapsed.as_secs_f64();
    let mut lines = vec![format!(
        "{} samples read: {} annotated ({} heatmaps), {} skipped, {} failed in {seconds:.1} s",
        summary.num_read,
        summary.num_committed,
        summary.num_heatmaps,
        summary.num_skipped(),
        summary.num_failed,
    )];
    for (reason, count) in &summary.skipped {
        lines.push(format!("  skipped, {reason}: {count}"));
    }
    if summary.num_known_failed > 0 {
        lines.push(format!("  failed as in an earlier run, with the same inputs: {}", summary.num_known_failed));
    }
    if summary.num_empty > 0 {
        lines.push(format!(
            "  heatmaps that are zero everywhere, as nothing there speaks for the class or no gradient comes back: {}; another layer, or \
             a method without gradients (eigencam, scorecam), may show something",
            summary.num_empty
        ));
    }
    if summary.num_predicted > 0 {
        lines.push(format!("  samples whose predictions were stored: {}", summary.num_predicted));
    }
    if summary.num_withdrawn > 0 {
        lines.push(format!("  heatmaps taken away, of what is not there any more: {}", summary.num_withdrawn));
    }
    if summary.num_moved > 0 {
        lines.push(format!("  changed while they were read, so that the next run looks at them again: {}", summary.num_moved));
    }
    if summary.num_clipped > 0 {
        lines.push(format!(
            "  gray images of more than 8 bits, cut to 0 to 255 as Pillow does (bright ones are white, fractions black): {}; convert \
             them to 8 bits, or export the model with `--samples`, which reads them at full depth",
            summary.num_clipped
        ));
    }
    if summary.num_unmatched > 0 {
        lines.push(format!(
            "  boxes without a heatmap, as no prediction of the model overlaps them by half: {}",
            summary.num_unmatched
        ));
    }
    if summary.num_abandoned > 0 {
        lines.push(format!("  left for the next run: {}", summary.num_abandoned));
    }
    if summary.num_committed > 0 {
        let rate = summary.num_committed as f64 / seconds.max(1e-3);
        let pace =
            summary.bottleneck().map(|(stage, share)| format!("; bottleneck: {} ({:.0} % busy)", work_of(stage), share * 100.0));
        if summary.num_bytes > 0 {
            let size = |bytes: u64| ByteSize(bytes).display().iec();
            let each = summary.num_bytes / summary.num_committed;
            lines.push(format!("  {} of files, {} an image", size(summary.num_bytes), size(each)));
        }
        lines.push(format!("  {rate:.2} images/s{}", pace.unwrap_or_default()));
    }
    lines
}

/// What a stage does, in the words of people who have not read how a run is made.
fn work_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Read => "reading samples",
        Stage::Decode => "decoding images",
        Stage::Batch => "making batches",
        Stage::Device => "inference",
        Stage::Encode => "writing files",
        Stage::Commit => "updating the database",
    }
}

/// What is known before the first sample, if it says more than how many samples there are.
pub(crate) fn outlook(outlook: &Outlook) -> Option<String> {
    let Outlook { num_heatmaps, num_bytes, free, .. } = outlook;
    let is_short = num_bytes.zip(free.as_ref()).is_some_and(|(num_bytes, (free, _))| num_bytes > *free);
    let doubt = if is_short { ", which may be too little" } else { "" };
    Some(format!("at most {} heatmaps{}{doubt}", (*num_heatmaps)?, disk(*num_bytes, free.as_ref())))
}

/// The files that a run writes, and the room for them.
fn disk(num_bytes: Option<u64>, free: Option<&(u64, PathBuf)>) -> String {
    let Some((free, folder)) = free else { return String::new() };
    let size = |bytes: u64| ByteSize(bytes).display().iec();
    let files = num_bytes.map_or_else(|| "files".to_owned(), |bytes| format!("{} of files", size(bytes)));
    format!(", {files} in `{}` ({} free)", shown(&folder.to_string_lossy()), size(*free))
}

/// What is left of a run that goes on for a while.
pub(crate) fn forecast(forecast: &Forecast) -> String {
    let Forecast { num_samples, num_heatmaps, num_bytes, time, free } = forecast;
    let disk = disk(Some(*num_bytes), free.as_ref());
    format!("about {num_samples} images left to annotate: {num_heatmaps} heatmaps{disk}, {}", HumanDuration(*time))
}

/// A run that changed nothing, in one line.
pub(crate) fn idle(summary: &Summary) -> String {
    let skipped = summary.skipped.iter().map(|(reason, count)| format!(", {reason}: {count}"));
    let failed = (summary.num_failed > 0).then(|| format!(", failed as in an earlier run: {}", summary.num_failed));
    let reasons: String = skipped.chain(failed).collect();
    format!("{} samples read: 0 annotated{reasons}", summary.num_read)
}

/// What failed, in one line.
pub(crate) fn failed(summary: &Summary) -> String {
    let Summary { num_failed, num_known_failed, num_read, failures, known_failures, .. } = summary;
    let known = if *num_known_failed > 0 { format!(" ({num_known_failed} as in an earlier run)") } else { String::new() };
    let first = failures.first().or(known_failures.first());
    let first = first.map(|failure| format!("; the first: {}: {}", failure.sample, shown(&failure.error)));
    format!("{num_failed} of {num_read} samples failed{known}{}", first.unwrap_or_default())
}

/// How many samples came to what.
pub(crate) fn counts(summary: &Summary) -> Value {
    json!({
        "num_read": summary.num_read,
        "num_committed": summary.num_committed,
        "num_heatmaps": summary.num_heatmaps,
        "num_empty": summary.num_empty,
        "num_predicted": summary.num_predicted,
        "num_bytes": summary.num_bytes,
        "num_withdrawn": summary.num_withdrawn,
        "num_moved": summary.num_moved,
        "num_clipped": summary.num_clipped,
        "num_unmatched": summary.num_unmatched,
        "num_skipped": summary.num_skipped(),
        "skipped": skipped(&summary.skipped),
        "num_failed": summary.num_failed,
        "num_known_failed": summary.num_known_failed,
        "num_abandoned": summary.num_abandoned,
    })
}

/// Samples that were passed over, by reason.
pub(crate) fn skipped(by_reason: &BTreeMap<SkipReason, u64>) -> Value {
    by_reason.iter().map(|(reason, count)| (reason.to_string(), json!(count))).collect()
}

/// Where the time went, by stage.
pub(crate) fn stages(summary: &Summary) -> Value {
    let stages = summary.stages.iter().map(|(stage, times)| {
        let seconds = json!({
            "busy_s": times.busy.as_secs_f64(), "starved_s": times.starved.as_secs_f64(),
            "blocked_s": times.blocked.as_secs_f64(), "num_threads": times.num_threads,
        });
        (stage.to_string(), seconds)
    });
    Value::Object(stages.collect())
}

/// The same as [`lines`] for machines.
pub(crate) fn json(summary: &Summary, fault: Option<&RunError>) -> Value {
    let mut fields = counts(summary);
    fields["interrupted"] = json!(summary.interrupted);
    fields["elapsed_s"] = json!(summary.elapsed.as_secs_f64());
    fields["stages"] = stages(summary);
    fields["error"] = json!(fault.map(|fault| error_text(&fault.diagnose())));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_heatmaps_are_told_only_where_there_are_any() {
        let told = |num_empty| lines(&Summary { num_heatmaps: 4, num_empty, ..Summary::default() }).join("\n");
        assert!(!told(0).contains("zero everywhere"));
        assert!(told(3).contains("no gradient comes back: 3; another layer"), "{}", told(3));
    }

    #[test]
    fn clipped_images_are_told_once_and_only_where_there_are_any() {
        let told = |num_clipped| lines(&Summary { num_clipped, ..Summary::default() }).join("\n");
        assert!(!told(0).contains("white"));
        assert!(told(3).contains("(bright ones are white, fractions black): 3; convert"), "{}", told(3));
        assert_eq!(counts(&Summary { num_clipped: 3, ..Summary::default() })["num_clipped"], 3);
    }
}
