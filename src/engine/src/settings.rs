//! The settings of a job as they are, for its report.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value, json};

use super::JobSpec;

/// Stands for what is not to be read in a report.
const HIDDEN: &str = "(hidden)";

impl JobSpec {
    /// Every setting by its key, defaults too, numbers as texts; `null` where there is none, and without secrets. `written` is what
    /// to show of those that hold some.
    pub fn settings(&self, written: &BTreeMap<String, String>) -> Map<String, Value> {
        // Paths may be anything on a command line, JSON is text.
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned().into());
        let readable = JobSpec {
            python: shown(&self.python),
            out: shown(&self.out),
            ids: shown(&self.ids),
            view_stages: shown(&self.view_stages),
            report_file: shown(&self.report_file),
            metrics_file: shown(&self.metrics_file),
            html_file: shown(&self.html_file),
            numbers_file: shown(&self.numbers_file),
            baseline: shown(&self.baseline),
            database_dir: shown(&self.database_dir),
            ..self.clone()
        };
        let Ok(Value::Object(mut settings)) = serde_json::to_value(readable) else { return Map::new() };
        for (key, value) in &mut settings {
            *value = match value.take() {
                Value::Null => Value::Null,
                _ if key == "database-uri" => json!(HIDDEN),
                _ if written.contains_key(key) => json!(written[key]),
                Value::Number(number) => json!(number.to_string()),
                Value::Array(values) if values.is_empty() => Value::Null,
                other => other,
            };
        }
        for (key, names) in [("class", &self.class), ("layers", &self.layers), ("tags", &self.tags), ("slices", &self.slices)] {
            if !names.is_empty() && !written.contains_key(key) {
                settings.insert(key.to_owned(), json!(names.listed()));
            }
        }
        if !written.contains_key("map") {
            let mappings: Vec<String> = self.map.iter().map(ToString::to_string).collect();
            settings.insert("map".to_owned(), if mappings.is_empty() { Value::Null } else { json!(mappings) });
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{ClassMapping, NameList};

    #[test]
    fn settings_are_complete_and_hold_no_secrets() {
        let job = JobSpec {
            class: NameList::from_texts(["a,b", r"c\, d"]),
            map: vec![ClassMapping::new("a", "b").expect("a mapping")],
            exact: true,
            limit: Some(3),
            database_uri: Some("mongodb://me:pw@host".to_owned()),
            out: Some(PathBuf::from("s")),
            ..JobSpec::new("d")
        };
        #[cfg(unix)]
        let strange = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        #[cfg(unix)]
        let job = JobSpec { baseline: Some(<std::ffi::OsString as Into<PathBuf>>::into(strange)), ..job };
        let config = job.settings(&[("out".to_owned(), "${S}".to_owned())].into());
        for (key, value) in [
            ("dataset", json!("d")),
            ("class", json!(["a", "b", "c, d"])),
            ("map", json!(["a=b"])),
            ("method", Value::Null),
            ("device", json!(["auto"])),
            ("target", json!("labels")),
            ("batch-size", json!("auto")),
            ("cam-batch-size", json!("32")),
            ("seed", json!("0")),
            ("exact", json!(true)),
            ("overwrite", json!(false)),
            ("limit", json!("3")),
            ("ids", Value::Null),
            ("baseline", json!("\u{fffd}")),
            ("tags", Value::Null),
            ("layers", Value::Null),
            ("database-uri", json!("(hidden)")),
            ("out", json!("${S}")),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
        assert!(config.len() > 30, "{config:?}");
    }
}
