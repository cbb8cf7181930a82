//! The keys of a job, from the JSON Schema of [`JobSpec`]: what job files may say, and what flags say of themselves.

use std::sync::LazyLock;

use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::JobSpec;

/// A key of a job, which is also a flag of `camflow annotate`.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it is for, in one paragraph.
    pub doc: String,
    /// What its value is called.
    pub value: String,
    /// What its value is.
    pub kind: Kind,
    /// Where its value is a path.
    pub path: Option<PathKind>,
    /// The values that there are to choose from.
    pub choices: Vec<String>,
    /// The least number.
    pub minimum: u64,
    /// What holds where it is left out, as a text.
    pub default: Option<String>,
    /// Whether it cannot be left out.
    pub is_required: bool,
}

/// What the value of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// A text.
    Text,
    /// A text or an array of them.
    List,
    /// A table of texts.
    Table,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A model: a file if it ends in `.pt2`.
    Model,
    /// A target: one that is similar to a file.
    Target,
    /// A program: one that is looked for where programs are, unless there is a `/` in it.
    Program,
}

impl Key {
    fn of(name: &str, property: &Value, is_required: bool) -> Self {
        let text = |key: &str| property.get(key).and_then(Value::as_str);
        let is = |kind: &str| match &property["type"] {
            Value::Array(kinds) => kinds.iter().any(|other| other == kind),
            other => other == kind,
        };
        let kind = match () {
            () if is("boolean") => Kind::Switch,
            () if is("array") => Kind::List,
            () if is("object") => Kind::Table,
            () if is("string") => Kind::Text,
            () => Kind::Number,
        };
        let choices = property.get("enum").or_else(|| property.get("items")?.get("enum")).and_then(Value::as_array);
        Key {
            name: name.to_owned(),
            doc: text("description").unwrap_or_default().to_owned(),
            value: text("x-value").unwrap_or_default().to_owned(),
            kind,
            path: text("x-path").map(|path| match path {
                "folder" => PathKind::Folder,
                "model" => PathKind::Model,
                "program" => PathKind::Program,
                "target" => PathKind::Target,
                _ => PathKind::File,
            }),
            choices: choices.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
            minimum: property.get("minimum").and_then(Value::as_u64).unwrap_or_default(),
            default: property.get("default").map(as_text),
            is_required,
        }
    }
}

/// A value as one would type it.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(as_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// All keys, by their names.
pub fn keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
        let schema = job_schema();
        let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties.map(|(name, property)| Key::of(name, property, required(name))).collect()
    });
    &KEYS
}

/// The key of that name.
pub fn key(name: &str) -> Option<&'static Key> {
    keys().iter().find(|key| key.name == name)
}

/// The JSON Schema of a job.
fn job_schema() -> Value {
    let schema: Schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<JobSpec>();
    let mut schema = schema.to_value();
    for property in schema["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(property) = property.as_object_mut() else { continue };
        // What may be left out is left out, in TOML.
        if let Some(Value::Array(kinds)) = property.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [kind] = &kinds[..] {
                let kind = kind.clone();
                property.insert("type".to_owned(), kind);
            }
        }
        let is_empty = |default: &Value| match default {
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            other => other.is_null(),
        };
        if property.get("default").is_some_and(is_empty) {
            property.remove("default");
        }
        if let Some(Value::String(doc)) = property.get_mut("description") {
            *doc = doc.replace('\n', " ");
        }
    }
    if let Some(dataset) = schema["properties"]["dataset"].as_object_mut() {
        dataset.remove("default");
    }
    schema["required"] = json!(["dataset"]);
    schema
}

/// The JSON Schema of a job file, for editors.
pub fn job_file_schema() -> Value {
    let mut job = job_schema();
    let mut properties = job["properties"].take();
    let name = properties.as_object_mut().and_then(|properties| properties.remove("name")).unwrap_or_default();
    // A text may hold `${NAME}`, whatever becomes of it.
    let mut settings = properties.clone();
    for property in settings.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let is_number = property["type"] == "integer";
        if is_number {
            property["type"] = json!(["integer", "string"]);
        }
    }
    let mut of_job = settings.clone();
    of_job["name"] = name;
    json!({
        "$schema": job["$schema"],
        "title": "A job file of camflow",
        "type": "object",
        "additionalProperties": false,
        "required": ["version", "job"],
        "properties": {
            "version": {"const": 1, "description": "The version of the file"},
            "defaults": {
                "type": "object",
                "description": "What holds for every job that does not say otherwise",
                "additionalProperties": false,
                "properties": settings,
            },
            "job": {
                "type": "array",
                "description": "The jobs, in the order in which they run",
                "items": {"type": "object", "additionalProperties": false, "required": ["name"], "properties": of_job},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_explained() {
        for key in keys() {
            assert!(!key.doc.is_empty() && !key.doc.contains('\n'), "{key:?}");
            assert_eq!(key.value.is_empty(), key.kind == Kind::Switch, "{key:?}");
        }
        assert_eq!(keys().iter().filter(|key| key.is_required).map(|key| key.name.as_str()).collect::<Vec<_>>(), ["dataset"]);
        let kind = |name: &str| key(name).map(|key| key.kind);
        let kinds = ["exact", "limit", "workers", "out", "batch-size", "class", "method", "map"].map(kind);
        let [switch, number, text, list, table] = [Kind::Switch, Kind::Number, Kind::Text, Kind::List, Kind::Table].map(Some);
        assert_eq!(kinds, [switch, number, number, text, text, list, list, table]);
        assert_eq!(key("npy").map(|key| key.choices.join(" ")).as_deref(), Some("layer f32 f16 none"));
        assert_eq!(key("out").and_then(|key| key.path), Some(PathKind::Folder));
        assert_eq!(key("limit").map(|key| key.minimum), Some(1));
        assert_eq!(key("model").and_then(|key| key.default.clone()), Some(crate::job::DEFAULT_MODEL.to_owned()));
        assert_eq!(key("precision").and_then(|key| key.default.clone()).as_deref(), Some("fp32"));
        assert_eq!(key("method").and_then(|key| key.default.clone()), None, "the model's own");
        assert_eq!(key("cam-batch-size").and_then(|key| key.default.clone()).as_deref(), Some("32"));
        assert_eq!(key("ids").and_then(|key| key.default.clone()), None);
    }

    #[test]
    fn a_job_reads_what_it_writes() {
        let job = JobSpec {
            class: ["tabby, tabby cat", "dog"].into(),
            map: vec![crate::job::ClassMapping::new("a=b", "c").expect("a mapping")],
            shard: Some("3/10".parse().expect("a shard")),
            max_failures: Some("5%".parse().expect("a share")),
            limit: Some(3),
            field: Some("{class}".parse().expect("a template")),
            ..JobSpec::new("d")
        };
        let text = serde_json::to_string(&job).expect("JSON");
        assert_eq!(serde_json::from_str::<JobSpec>(&text).expect("a job"), job);
        assert_eq!(serde_json::from_str::<JobSpec>(r#"{"dataset": "d"}"#).expect("a job"), JobSpec::new("d"));
        let refused = |text: &str| serde_json::from_str::<JobSpec>(text).expect_err(text).to_string();
        assert!(refused(r#"{"dataset": "d", "clas": "x"}"#).contains("unknown field `clas`"));
        assert!(refused(r#"{"dataset": "d", "limit": 0}"#).contains("no sample would be taken"));
        assert!(refused(r#"{"dataset": "d", "target": "x"}"#).contains("is not a target"));
        let names: Vec<String> = serde_json::to_value(&job).expect("JSON").as_object().expect("keys").keys().cloned().collect();
        assert_eq!(names, keys().iter().map(|key| key.name.clone()).collect::<Vec<_>>());
    }
}
