//! Known failures: samples that failed in an earlier run of the same job, and fail again with the same inputs. They are tried in every
//! run, as a disk or a memory may have been short only then, but are no news.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use crate::{
    fields::HeatmapFields,
    fingerprint::{Fingerprint, Ingredient},
    message::SampleFailure,
};

/// What a failure came of, as a digest: the model, the settings, the sample's files and label, and the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCause(u64);

impl FailureCause {
    /// Of a failure of a job with these fields and this fingerprint. `inputs` is the sample's own fingerprint; where its files cannot
    /// be looked at there is none, and what was said of them stands for them.
    pub(crate) fn of(
        failure: &SampleFailure,
        fields: &HeatmapFields,
        job: Fingerprint,
        inputs: Option<Fingerprint>,
    ) -> FailureCause {
        let inputs = inputs.unwrap_or_else(|| job.and(Ingredient::Image, "failure", failure.error.as_bytes()));
        let text = format!("{}\0{}", fields.fingerprint_of_all(inputs), failure.stage);
        let digest = blake3::derive_key("camflow 2026-11 failure", text.as_bytes());
        FailureCause(digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for FailureCause {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(FailureCause)
    }
}

/// The failures of a job's earlier runs, by the samples' ids, and what this run changes of them.
#[derive(Debug, Default)]
pub struct KnownFailures {
    before: HashMap<String, FailureCause>,
    noted: HashMap<String, FailureCause>,
    healed: HashSet<String>,
}

impl KnownFailures {
    /// What earlier runs have left.
    pub fn new(before: HashMap<String, FailureCause>) -> Self {
        KnownFailures { before, ..KnownFailures::default() }
    }

    /// Whether a sample failed before, of the same cause.
    pub fn is_known(&self, sample: &str, cause: FailureCause) -> bool {
        self.before.get(sample) == Some(&cause)
    }

    /// A sample failed; whether that is known.
    pub fn failed(&mut self, sample: &str, cause: FailureCause) -> bool {
        let is_known = self.is_known(sample, cause);
        if !is_known {
            self.noted.insert(sample.to_owned(), cause);
        }
        is_known
    }

    /// A sample ended in another way.
    pub fn ended(&mut self, sample: &str) {
        if self.before.contains_key(sample) {
            self.healed.insert(sample.to_owned());
        }
    }

    /// Failures that were not known.
    pub fn noted(&self) -> impl Iterator<Item = (&str, FailureCause)> {
        self.noted.iter().map(|(sample, cause)| (sample.as_str(), *cause))
    }

    /// Samples that failed before, and do not any more.
    pub fn healed(&self) -> impl Iterator<Item = &str> {
        self.healed.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::SampleRef, stage::Stage};

    fn failure(stage: Stage, error: &str) -> SampleFailure {
        let sample = SampleRef { seq: 0, id: "a".into(), media_path: "/a.png".into() };
        SampleFailure { sample, stage, error: error.into() }
    }

    fn fields(column: &str) -> HeatmapFields {
        HeatmapFields::new(vec![vec!["f".into()]], vec!["person".into()], vec![column.into()])
    }

    #[test]
    fn a_cause_is_what_the_failure_came_of() {
        let job = Fingerprint::of_job("m", "s");
        let image = |name: &str| Some(job.and(Ingredient::Image, "image", name.as_bytes()));
        let cause = |stage, error, fields: &HeatmapFields, inputs| FailureCause::of(&failure(stage, error), fields, job, inputs);
        let one = cause(Stage::Device, "needs 3.1 GiB", &fields("1"), image("a"));
        assert_eq!(one.to_string().parse(), Ok(one));
        // Words hold figures of the moment; they count only where there is nothing else.
        assert_eq!(one, cause(Stage::Device, "needs 3.2 GiB", &fields("1"), image("a")));
        assert_ne!(one, cause(Stage::Decode, "needs 3.1 GiB", &fields("1"), image("a")));
        assert_ne!(one, cause(Stage::Device, "needs 3.1 GiB", &fields("2"), image("a")));
        assert_ne!(one, cause(Stage::Device, "needs 3.1 GiB", &fields("1"), image("b")));
        let lost = |error| cause(Stage::Decode, error, &fields("1"), None);
        assert_eq!(lost("no such file"), lost("no such file"));
        assert_ne!(lost("no such file"), lost("permission denied"));
    }

    #[test]
    fn only_news_is_noted_and_what_heals_is_dropped() {
        let cause = |text: &str| text.parse::<FailureCause>().expect("digits");
        let before = [("known", "1"), ("other", "2"), ("healed", "3"), ("unseen", "4")];
        let mut known = KnownFailures::new(before.map(|(sample, text)| (sample.to_owned(), cause(text))).into());
        assert!(known.failed("known", cause("1")));
        assert!(!known.failed("other", cause("9")));
        assert!(!known.failed("new", cause("1")));
        known.ended("healed");
        known.ended("good");
        let mut noted: Vec<_> = known.noted().collect();
        noted.sort_by_key(|(sample, _)| *sample);
        assert_eq!(noted, [("new", cause("1")), ("other", cause("9"))]);
        assert_eq!(known.healed().collect::<Vec<_>>(), ["healed"]);
    }
}
