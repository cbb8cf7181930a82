//! Whether a model's heatmaps can be trusted: what `camflow check-model` found, as figures with verdicts.
//!
//! The checks are run elsewhere; a [`ModelCheck`] holds what each came to, map by map, and says it: [`summaries`] judges,
//! [`check_lines`] has the table, [`check_json`] all figures.

mod check;
mod found;
mod judge;
mod said;
mod tables;

pub use check::{Check, Threshold, Thresholds, Verdict};
pub use found::{
    CaseCheck, CheckedColumn, Compared, HeatmapCheck, MethodPair, ModelCheck, RandomisedStep, Similarity, entropies,
};
pub use judge::{Summary, overall, summaries};
pub use said::check_lines;
pub use tables::check_json;

#[cfg(test)]
mod testing {
    use super::{CaseCheck, HeatmapCheck};

    /// A cat with one heatmap.
    pub(super) fn case(heatmap: HeatmapCheck) -> CaseCheck {
        CaseCheck {
            name: "a".into(),
            image: "a.jpg".into(),
            class: "cat".into(),
            channel: 3,
            confidence: Some(0.9),
            heatmaps: vec![heatmap],
            agreements: Vec::new(),
        }
    }
}
