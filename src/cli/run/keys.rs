//! Settings of a job file to values of a job's keys, each by itself: what is wrong is said of its line.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::{
    engine::{JobSpec, Key, Kind, PathKind, key, keys},
    job::{ClassMapping, Origin, Reference, Setting, Similarity, TargetSpec, Text, Value, unknown},
    names::{backticked, similar},
};

/// What is asked for elsewhere, and where.
const NO_KEYS: [(&str, &str); 3] = [
    ("name", "every job has a `name` of its own: `--name`, in a job file `name` below its `[[job]]`"),
    ("format", "`format` is typed: `--format`"),
    ("quiet", "`quiet` is typed: `--quiet`"),
];

/// The keys that a job file may have below `[[job]]` and `[defaults]`.
pub(super) fn settable() -> impl Iterator<Item = &'static Key> {
    keys().iter().filter(|key| NO_KEYS.iter().all(|(no_key, _)| *no_key != key.name))
}

/// Reads the settings of a job file.
pub(in crate::cli) struct Keys {
    /// What relative paths in the file are relative to.
    folder: PathBuf,
}

impl Keys {
    /// For a job file in that folder.
    pub(in crate::cli) fn new(folder: &Path) -> Self {
        Keys { folder: folder.to_owned() }
    }

    /// The value that a job has of this setting; `None` where that is the default.
    ///
    /// # Errors
    /// There is no such key, or it does not take this value.
    pub(in crate::cli) fn value(&self, setting: &Setting) -> Result<Option<Json>, String> {
        let name = &setting.key;
        if let Some((_, reason)) = NO_KEYS.iter().find(|(no_key, _)| no_key == name) {
            return Err((*reason).to_owned());
        }
        let Some(key) = key(name) else {
            return Err(unknown("key", name, settable().map(|key| key.name.as_str())));
        };
        let Some(value) = self.read(key, setting)? else { return Ok(None) };
        let alone: Map<String, Json> = [(name.clone(), value.clone())].into_iter().collect();
        match serde_json::from_value::<JobSpec>(alone.into()) {
            Ok(_) => Ok(Some(value)),
            Err(error) => Err(refused(key, &setting.value, &error.to_string())),
        }
    }

    /// As JSON, of the key's type.
    fn read(&self, key: &Key, setting: &Setting) -> Result<Option<Json>, String> {
        let name = &key.name;
        let is_typed = matches!(setting.origin, Origin::Set(_));
        let located = |text: &Text| json!(self.located(key, &text.filled, &setting.origin));
        match (key.kind, &setting.value) {
            (_, Value::Wrong) => Ok(None),
            (Kind::Switch, Value::Switch(switch)) => Ok(Some(json!(switch))),
            // From the command line, where everything is text.
            (Kind::Switch, Value::Text(text)) if is_typed => match text.filled.as_str() {
                "true" => Ok(Some(json!(true))),
                "false" => Ok(Some(json!(false))),
                _ => Err(format!("`{name}` is `true` or `false`")),
            },
            (Kind::Switch, _) => Err(format!("`{name}` is `true` or `false`, without quotes")),
            (Kind::Table, Value::Table(entries)) => {
                let entries: Map<String, Json> = entries.iter().map(|(label, text)| (label.clone(), located(text))).collect();
                Ok(Some(entries.into()))
            }
            (Kind::Table, Value::Text(text)) if is_typed => {
                let mapping: ClassMapping =
                    text.filled.parse().map_err(|reason: String| refused(key, &setting.value, &reason))?;
                Ok(Some(json!({ mapping.label: mapping.class })))
            }
            (Kind::Table, _) => {
                Err(format!("`{name}` is a table: write `{name} = {{ \"{}\" }}`", key.value.replace('=', "\" = \"")))
            }
            (_, Value::Table(_)) => Err(format!("`{name}` takes {}, not a table", takes(key))),
            (_, Value::Switch(_)) => Err(format!("`{name}` takes {}, not `true` or `false`", takes(key))),
            // What it takes back is what `[defaults]` says.
            (Kind::List, Value::List(texts)) if texts.is_empty() => Ok(None),
            (Kind::List, Value::List(texts)) => Ok(Some(texts.iter().map(located).collect())),
            (_, Value::List(_)) => Err(format!("`{name}` takes one value, not an array")),
            (Kind::Number, Value::Text(text)) => match text.filled.parse::<u64>() {
                Ok(number) => Ok(Some(json!(number))),
                Err(_) => Err(refused(key, &setting.value, &format!("it is a number from {}", key.minimum))),
            },
            // Most often an environment variable that is empty: what it stands for would be something else than was meant.
            (Kind::Text, Value::Text(text)) if text.filled.is_empty() => {
                let or = if key.is_required { "" } else { ", or leave it out" };
                Err(format!("`{name}` is empty: give it a {}{or}", key.value))
            }
            (Kind::Text | Kind::List, Value::Text(text)) => Ok(Some(located(text))),
        }
    }

    /// Paths of the file are relative to the file's folder: a job means the same from wherever it is started. Those of `--set` are
    /// typed in a shell, and relative to where that is.
    fn located(&self, key: &Key, text: &str, origin: &Origin) -> String {
        let path = Path::new(text);
        let is_path = match key.path {
            Some(PathKind::File | PathKind::Folder) => true,
            Some(PathKind::Model) => path.extension().is_some_and(|extension| extension == "pt2"),
            Some(PathKind::Program) => text.contains('/'),
            Some(PathKind::Target) => return self.located_target(text, origin),
            None => false,
        };
        if is_path { self.located_path(text, origin) } else { text.to_owned() }
    }

    fn located_path(&self, text: &str, origin: &Origin) -> String {
        let home = || Some(directories::BaseDirs::new()?.home_dir().join(text.strip_prefix("~/")?));
        let located = match origin {
            Origin::Line(_) if !text.is_empty() => home().unwrap_or_else(|| self.folder.join(text)),
            _ => return text.to_owned(),
        };
        located.into_os_string().into_string().unwrap_or_else(|_| text.to_owned())
    }

    /// Likewise a target with a file in it.
    fn located_target(&self, text: &str, origin: &Origin) -> String {
        let Ok(TargetSpec::Similar(Similarity { to: Reference::File(_), is_distance })) = text.parse() else {
            return text.to_owned();
        };
        let file = text.split_once('=').map_or(text, |(_, file)| file);
        let to = Reference::File(self.located_path(file, origin).into());
        TargetSpec::Similar(Similarity { to, is_distance }).to_string()
    }
}

fn takes(key: &Key) -> String {
    if key.kind == Kind::List { format!("{} or an array of them", key.value) } else { key.value.clone() }
}

/// Values that are listed although one is near to what was written: more would hide it.
const MOST_LISTED: usize = 12;

/// Why a value is refused, without showing what environment variables hold.
fn refused(key: &Key, value: &Value, reason: &str) -> String {
    let mut text = format!("`{}` cannot be `{value}`", key.name);
    let texts: Vec<&Text> = value.texts().collect();
    if !key.choices.is_empty() {
        let names = texts.iter().filter(|text| !text.is_secret).flat_map(|text| text.filled.split(','));
        let wrong = names.map(str::trim).find(|name| !key.choices.iter().any(|choice| choice == name));
        let near = wrong.map(|wrong| similar(wrong, &key.choices)).unwrap_or_default();
        text.push_str(&match near.first() {
            Some(near) if key.choices.len() > MOST_LISTED => {
                format!(": did you mean `{near}`? It takes {} others", key.choices.len() - 1)
            }
            Some(near) => format!(": it takes {}; did you mean `{near}`?", backticked(&key.choices)),
            None => format!(": it takes {}", backticked(&key.choices)),
        });
    } else if texts.iter().all(|text| !text.is_secret) {
        // That of a type of Rust's.
        let is_too_small = key.kind == Kind::Number && reason.starts_with("invalid value");
        let reason = if is_too_small { format!("it is a number from {}", key.minimum) } else { reason.to_owned() };
        text.push_str(&format!(": {reason}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: Value) -> Setting {
        Setting { key: key.into(), value, origin: Origin::Line(1) }
    }

    fn text(text: &str) -> Value {
        Value::Text(Text::plain(text))
    }

    fn list(texts: &[&str]) -> Value {
        Value::List(texts.iter().map(|text| Text::plain(*text)).collect())
    }

    fn value(key: &str, value: Value) -> Result<Option<Json>, String> {
        Keys::new(Path::new("/jobs")).value(&setting(key, value))
    }

    #[test]
    fn settings_become_values_of_their_types() {
        let some = |value: Json| Ok(Some(value));
        assert_eq!(value("dataset", text("-d")), some(json!("-d")));
        assert_eq!(value("limit", text("3")), some(json!(3)));
        assert_eq!(value("layers", text("4")), some(json!("4")));
        assert_eq!(value("exact", Value::Switch(true)), some(json!(true)));
        assert_eq!(value("exact", Value::Switch(false)), some(json!(false)));
        assert_eq!(value("class", list(&["tabby, tabby cat", "15"])), some(json!(["tabby, tabby cat", "15"])));
        assert_eq!(value("class", text("a,b")), some(json!("a,b")), "split where it is known what there is");
        assert_eq!(value("method", text("fem,eigencam")), some(json!("fem,eigencam")));
        let table = Value::Table(vec![("a=b".into(), Text::plain("c")), ("d".into(), Text::plain("15"))]);
        assert_eq!(value("map", table), some(json!({"a=b": "c", "d": "15"})));
        assert_eq!(value("tags", list(&[])), Ok(None));
        assert_eq!(value("batch-size", text("4")), some(json!("4")));
        let typed = |key: &str, value: &str| {
            let origin = Origin::Set(format!("{key}={value}"));
            Keys::new(Path::new("/jobs")).value(&Setting { key: key.into(), value: text(value), origin })
        };
        assert_eq!(typed("map", r"a\=b=c"), some(json!({"a=b": "c"})));
        assert_eq!(typed("exact", "true"), some(json!(true)));
        assert_eq!(typed("exact", "yes"), Err("`exact` is `true` or `false`".into()));
        assert_eq!(typed("out", "maps"), some(json!("maps")));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let some = |value: &str| Ok(Some(json!(value)));
        assert_eq!(value("out", text("maps")), some("/jobs/maps"));
        assert_eq!(value("out", text("/maps")), some("/maps"));
        assert_eq!(value("ids", text("../ids.txt")), some("/jobs/../ids.txt"));
        assert_eq!(value("metrics-file", text("{name}.prom")), some("/jobs/{name}.prom"));
        assert_eq!(value("model", text("m.pt2")), some("/jobs/m.pt2"));
        assert_eq!(value("model", text("resnet50")), some("resnet50"));
        assert_eq!(value("python", text("python3")), some("python3"));
        assert_eq!(value("python", text("venv/bin/python")), some("/jobs/venv/bin/python"));
        assert_eq!(value("target", text("similar=cat.npy")), some("similar=/jobs/cat.npy"));
        assert_eq!(value("target", text("different=/refs/a=b.jpg")), some("different=/refs/a=b.jpg"));
        assert_eq!(value("target", text("similar:animal")), some("similar:animal"));
        let home = directories::BaseDirs::new().expect("a home").home_dir().join("maps");
        assert_eq!(value("out", text("~/maps")), some(&home.display().to_string()));
    }

    #[test]
    fn wrong_keys_and_values_are_refused_with_what_there_is() {
        let refused = |key: &str, wrong: Value| value(key, wrong).expect_err("a mistake");
        assert_eq!(refused("clas", text("x")), "there is no key `clas`; the nearest: `class`, `layers`");
        assert!(refused("batch_size", text("x")).contains("`batch-size`"));
        assert_eq!(refused("format", text("json")), "`format` is typed: `--format`");
        assert_eq!(refused("exact", text("true")), "`exact` is `true` or `false`, without quotes");
        assert_eq!(refused("limit", Value::Switch(true)), "`limit` takes N, not `true` or `false`");
        assert_eq!(refused("tags", Value::Switch(true)), "`tags` takes TAG or an array of them, not `true` or `false`");
        assert_eq!(refused("limit", list(&[])), "`limit` takes one value, not an array");
        assert_eq!(refused("limit", text("many")), "`limit` cannot be `many`: it is a number from 1");
        assert!(refused("limit", text("0")).contains("no sample would be taken"));
        assert_eq!(refused("sub", Value::Table(Vec::new())), "there is no key `sub`");
        assert_eq!(refused("tags", Value::Table(Vec::new())), "`tags` takes TAG or an array of them, not a table");
        assert_eq!(refused("map", text("a=b")), "`map` is a table: write `map = { \"LABEL\" = \"CLASS\" }`");
        assert!(refused("map", Value::Table(vec![("a".into(), Text::plain(""))])).contains("lacks a name"));
        assert_eq!(
            refused("npy", text("f33")),
            "`npy` cannot be `f33`: it takes `layer`, `f32`, `f16`, `none`; did you mean `f32`?"
        );
        let near = ": did you mean `gradcam`? It takes 35 others";
        assert_eq!(refused("method", text("gradcan")), format!("`method` cannot be `gradcan`{near}"));
        assert_eq!(refused("method", list(&["fem", "gradcan"])), format!("`method` cannot be `fem,gradcan`{near}"));
        assert!(refused("target", text("labels:")).starts_with("`target` cannot be `labels:`: `labels:` is not a target"));
        let secret = |key: &str| {
            let text = Text { written: "${PW}".into(), filled: "hunter2".into(), is_secret: true };
            refused(key, Value::Text(text))
        };
        assert_eq!(secret("limit"), "`limit` cannot be `${PW}`");
        assert_eq!(secret("target"), "`target` cannot be `${PW}`");
        assert!(secret("npy").ends_with("it takes `layer`, `f32`, `f16`, `none`"));
    }
}
