//! The change that a run makes to the record of its job: a pipeline that the server applies in one step, so that shards that end
//! at the same moment lose nothing of each other's.

use bson::{Bson, Document, doc, oid::ObjectId};

use super::run_note::{METHOD, Part, RunNote};

/// What is added up over the shards of a round.
const COUNTS: &str = "counts";

/// Notes that a record remembers, to know one that is made again because its answer was lost.
const MEMORY: i32 = 100;

/// What a run has to say.
pub(super) struct RunUpdate {
    /// Tells this note from all others.
    id: String,
    part: Option<Part>,
    head: Document,
    fields: Vec<String>,
    folders: Vec<String>,
    details: Document,
}

impl RunUpdate {
    pub(super) fn new(note: &RunNote) -> Self {
        // Everything that JSON can say BSON can say too, but for integers beyond 63 bits.
        let value =
            |value: &serde_json::Value| bson::serialize_to_bson(value).unwrap_or_else(|_| Bson::String(value.to_string()));
        RunUpdate {
            id: ObjectId::new().to_hex(),
            part: note.part,
            // What FiftyOne needs to load it.
            head: doc! {"cls": "fiftyone.core.runs.RunConfig", "type": "run", "method": METHOD, "job": note.job.as_deref()},
            fields: note.fields.clone(),
            folders: note.folder.iter().map(|folder| folder.to_string_lossy().into_owned()).collect(),
            details: note.details.iter().map(|(name, detail)| (name.clone(), value(detail))).collect(),
        }
    }

    /// The update of the document.
    pub(super) fn pipeline(&self, dataset: ObjectId, key: &str, version: &str) -> Vec<Document> {
        let is = |action: &str| doc! {"$eq": ["$action", action]};
        let config = doc! {"$switch": {
            "branches": [
                {"case": is("keep"), "then": "$config"},
                {"case": is("join"), "then": self.config(true)},
            ],
            "default": self.config(false),
        }};
        let mut set = doc! {
            "_dataset_id": dataset, "key": literal(key), "version": literal(version), "config": config,
            "timestamp": {"$cond": [is("keep"), "$timestamp", "$$NOW"]},
            "results_meta": {"$ifNull": ["$results_meta", literal(Document::new())]},
        };
        if self.part.is_some() {
            set.insert("notes", doc! {"$slice": [{"$concatArrays": [or_empty("$notes"), [&self.id]]}, -MEMORY]});
        }
        vec![doc! {"$set": {"action": self.action()}}, doc! {"$set": set}, doc! {"$unset": "action"}]
    }

    /// `begin` a round, `join` the one that goes on, or `keep` the record as it is.
    fn action(&self) -> Bson {
        let Some(Part { shard, is_idle, .. }) = self.part else { return "begin".into() };
        let is_repeated = doc! {"$in": [&self.id, or_empty("$notes")]};
        let goes_on = doc! {"$and": [
            {"$eq": ["$config.shards.count", i64::from(shard.count())]},
            {"$not": [{"$in": [i64::from(shard.index()), or_empty("$config.shards.done")]}]},
            {"$eq": ["$config.model_digest", self.details.get("model_digest").cloned().map_or(Bson::Null, literal)]},
        ]};
        let otherwise = match is_idle {
            true => doc! {"$cond": [{"$eq": [{"$type": "$config"}, "object"]}, "keep", "begin"]}.into(),
            false => Bson::from("begin"),
        };
        let branches = [doc! {"case": is_repeated, "then": "keep"}, doc! {"case": goes_on, "then": "join"}];
        doc! {"$switch": {"branches": branches.map(Bson::from).to_vec(), "default": otherwise}}.into()
    }

    /// The content of the record. Fields and folders of earlier runs stay in it.
    fn config(&self, joins: bool) -> Document {
        let joined = |key: &str, new: &[String]| {
            let old = or_empty(&format!("$config.{key}"));
            let more = doc! {"$filter": {"input": literal(new.to_vec()), "cond": {"$not": [{"$in": ["$$this", &old]}]}}};
            doc! {"$concatArrays": [old, more]}
        };
        let started = self.details.get("started").cloned().map_or(Bson::Null, literal);
        let mut changes = doc! {"first_started": {"$ifNull": ["$config.first_started", &started]}};
        if let Some(Part { shard, is_done, .. }) = self.part {
            let done: Vec<i64> = is_done.then_some(i64::from(shard.index())).into_iter().collect();
            let before = if joins { or_empty("$config.shards.done") } else { literal(Vec::<i64>::new()) };
            changes.insert("shards", doc! {"count": i64::from(shard.count()), "done": {"$concatArrays": [before, done]}});
        }
        if joins {
            changes.insert("started", doc! {"$min": ["$config.started", started]});
            changes
                .extend(self.details.get(COUNTS).map(|counts| (COUNTS.to_owned(), added(&format!("$config.{COUNTS}"), counts))));
        }
        doc! {"$mergeObjects": [
            literal(self.head.clone()),
            {"fields": joined("fields", &self.fields), "output_folders": joined("output_folders", &self.folders)},
            literal(self.details.clone()),
            changes,
        ]}
    }
}

/// The expression for the sum of the stored value at `path` and this one: number by number.
fn added(path: &str, value: &Bson) -> Bson {
    match value {
        Bson::Document(parts) => {
            let sums: Document = parts.iter().map(|(key, part)| (key.clone(), added(&format!("{path}.{key}"), part))).collect();
            doc! {"$mergeObjects": [path, sums]}.into()
        }
        Bson::Int32(_) | Bson::Int64(_) => doc! {"$add": [{"$ifNull": [path, 0]}, value.clone()]}.into(),
        other => literal(other.clone()),
    }
}

fn or_empty(path: &str) -> Bson {
    doc! {"$ifNull": [path, []]}.into()
}

/// Names and settings may begin with a dollar sign.
fn literal(value: impl Into<Bson>) -> Bson {
    doc! {"$literal": value.into()}.into()
}
