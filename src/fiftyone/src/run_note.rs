//! What is noted of a run, and which job it is of.

use std::{collections::BTreeSet, path::PathBuf};

use bson::oid::ObjectId;
use serde_json::{Map, Value};

use super::shard::Shard;

/// How FiftyOne tells whose runs they are: `dataset.list_runs(method="camflow")`.
pub(super) const METHOD: &str = "camflow";

/// What there is to note of a run.
#[derive(Clone, Debug)]
pub struct RunNote {
    /// The job's name, if it has one.
    pub job: Option<String>,
    /// The fields that it writes; at least one.
    pub fields: Vec<String>,
    /// The folder of its files, if it writes any.
    pub folder: Option<PathBuf>,
    /// What part of the samples it was about, if not all.
    pub part: Option<Part>,
    /// Everything else, by name. Numbers below `counts` are added up over the shards of a round.
    pub details: Map<String, Value>,
}

/// A shard's place in the record of its job.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which shard.
    pub shard: Shard,
    /// Whether it came to its end, so that the round needs it no more.
    pub is_done: bool,
    /// Whether it changed nothing: then it only adds to a round that lacks it.
    pub is_idle: bool,
}

/// The id of a job's record, by the name of the job or else its fields: the same for all processes that do the job, whichever of
/// them makes the record.
pub(super) fn run_id(dataset: ObjectId, job: Option<&str>, fields: &[String]) -> ObjectId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&dataset.bytes());
    let fields: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
    let known_by = match job {
        Some(job) => format!("job\0{job}"),
        None => fields.into_iter().flat_map(|field| ["field\0", field, "\0"]).collect(),
    };
    hasher.update(known_by.as_bytes());
    let mut bytes = [0; 12];
    hasher.finalize_xof().fill(&mut bytes);
    ObjectId::from_bytes(bytes)
}
