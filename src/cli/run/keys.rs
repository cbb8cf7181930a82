//! The keys of a job: the flags of `camflow annotate`, as clap knows them, so that the two can never differ.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Args as _, Command, ValueHint,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use crate::{
    cli::annotate,
    job::{ClassMapping, Origin, Setting, Text, Value, unknown},
    names::{backticked, list_of_one},
};

/// Flags of `annotate` that are no keys, and why not.
const NO_KEYS: [(&str, &str); 3] = [
    ("name", "every job has a `name` of its own, below its `[[job]]`"),
    ("format", "`format` is one for all jobs: `camflow run --format`"),
    ("quiet", "`quiet` is one for all jobs: `camflow run --quiet`"),
];

/// The keys of a job.
pub struct Keys {
    command: Command,
    /// What relative paths in the file are relative to.
    folder: PathBuf,
}

impl Keys {
    /// Those of `camflow annotate`, for a job file in that folder.
    pub fn new(folder: &Path) -> Self {
        let command = Command::new("annotate").no_binary_name(true).disable_help_flag(true);
        Keys { command: annotate::Args::augment_args(command), folder: folder.to_owned() }
    }

    /// The command line that jobs are parsed as.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// All keys with their flags, in the order of the help text.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Arg)> {
        let named = self.command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
        named.filter(|(name, _)| NO_KEYS.iter().all(|(no_key, _)| no_key != name))
    }

    /// The keys that a job cannot be without.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.all().filter(|(_, arg)| arg.is_required_set()).map(|(name, _)| name)
    }

    /// The command-line arguments that say the same.
    ///
    /// # Errors
    /// There is no such key, or it does not take this value.
    pub fn arguments(&self, setting: &Setting) -> Result<Vec<OsString>, String> {
        let key = &setting.key;
        if let Some((_, reason)) = NO_KEYS.iter().find(|(no_key, _)| no_key == key) {
            return Err((*reason).to_owned());
        }
        let Some((_, arg)) = self.all().find(|(name, _)| name == key) else {
            return Err(unknown("key", key, self.all().map(|(name, _)| name)));
        };
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let is_table = annotate::is_table(arg);
        let texts = match &setting.value {
            Value::Wrong => return Ok(Vec::new()),
            Value::Switch(false) if is_switch => return Ok(Vec::new()),
            Value::Switch(true) if is_switch => return Ok(vec![format!("--{key}").into()]),
            // From the command line, where everything is text.
            Value::Text(text) if is_switch && matches!(setting.origin, Origin::Set(_)) => {
                return match text.filled.as_str() {
                    "true" => Ok(vec![format!("--{key}").into()]),
                    "false" => Ok(Vec::new()),
                    _ => Err(format!("`{key}` is `true` or `false`")),
                };
            }
            _ if is_switch => return Err(format!("`{key}` is `true` or `false`, without quotes")),
            Value::Table(entries) if is_table => entries.iter().map(|(_, text)| text).collect::<Vec<_>>(),
            Value::Table(_) => return Err(format!("`{key}` takes {}, not a table", takes(arg, is_list))),
            _ if is_table && matches!(setting.origin, Origin::Line(_)) => {
                return Err(format!("`{key}` is a table: write `{key} = {{ \"{}\" }}`", value_name(arg).replace('=', "\" = \"")));
            }
            Value::Switch(_) => return Err(format!("`{key}` takes {}, not `true` or `false`", takes(arg, is_list))),
            Value::List(_) if !is_list => return Err(format!("`{key}` takes one value, not an array")),
            Value::List(texts) => texts.iter().collect::<Vec<_>>(),
            Value::Text(text) => vec![text],
        };
        let filled = texts.iter().map(|text| self.located(arg, &text.filled, &setting.origin));
        let arguments: Vec<OsString> = match &setting.value {
            // Where names are split at commas, those of an array are not.
            Value::List(_) if takes_any_text(arg) => {
                filled.map(|text| format!("--{key}={}", list_of_one(&text)).into()).collect()
            }
            Value::Table(entries) => {
                let labels = entries.iter().map(|(label, _)| label);
                labels
                    .zip(filled)
                    .map(|(label, text)| format!("--{key}={}", ClassMapping::argument(label, &text)).into())
                    .collect()
            }
            _ => filled.map(|text| format!("--{key}={text}").into()).collect(),
        };
        let alone = Command::new("key").no_binary_name(true).disable_help_flag(true).arg(arg.clone().required(false));
        match alone.try_get_matches_from(&arguments) {
            Ok(_) => Ok(arguments),
            Err(error) => Err(refused(key, &setting.value, &texts, &error)),
        }
    }

    /// Paths of the file are relative to the file's folder: a job means the same from wherever it is started. Those of `--set` are
    /// typed in a shell, and relative to where that is.
    fn located(&self, arg: &Arg, text: &str, origin: &Origin) -> String {
        let path = Path::new(text);
        let is_path = match arg.get_value_hint() {
            ValueHint::AnyPath | ValueHint::DirPath => true,
            // A zoo name or a file.
            ValueHint::FilePath => path.extension().is_some_and(|extension| extension == "pt2"),
            // A program by itself is looked for where programs are.
            ValueHint::ExecutablePath => text.contains('/'),
            _ => false,
        };
        let home = || Some(directories::BaseDirs::new()?.home_dir().join(text.strip_prefix("~/")?));
        let located = match origin {
            Origin::Line(_) if is_path && !text.is_empty() => home().unwrap_or_else(|| self.folder.join(text)),
            _ => return text.to_owned(),
        };
        located.into_os_string().into_string().unwrap_or_else(|_| text.to_owned())
    }
}

fn value_name(arg: &Arg) -> &str {
    arg.get_value_names().and_then(|names| names.first()).map_or("a value", |name| name.as_str())
}

/// Whether clap leaves it to others to take the value apart.
fn takes_any_text(arg: &Arg) -> bool {
    arg.get_value_delimiter().is_none()
}

fn takes(arg: &Arg, is_list: bool) -> String {
    let what = value_name(arg);
    if is_list { format!("{what} or an array of them") } else { what.to_owned() }
}

/// Why clap refuses a value, without showing what environment variables hold.
fn refused(key: &str, value: &Value, texts: &[&Text], error: &Error) -> String {
    let mut text = format!("`{key}` cannot be `{value}`");
    let valid = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => valid.as_slice(),
        _ => &[],
    };
    if !valid.is_empty() {
        let wrong = texts.iter().find(|text| !text.is_secret && !valid.contains(&text.filled));
        let near = wrong.map(|wrong| crate::names::similar(&wrong.filled, valid)).unwrap_or_default();
        let near = near.first().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        text.push_str(&format!(": it takes {}{near}", backticked(valid)));
    } else if texts.iter().all(|text| !text.is_secret)
        && error.kind() == ErrorKind::ValueValidation
        && let Some(cause) = std::error::Error::source(error)
    {
        text.push_str(&format!(": {cause}"));
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

    fn argument(key: &str, value: Value) -> Result<Option<String>, String> {
        let arguments = Keys::new(Path::new("/jobs")).arguments(&setting(key, value))?;
        let texts: Vec<String> = arguments.into_iter().map(|argument| argument.into_string().expect("text")).collect();
        Ok(Some(texts.join(" ")).filter(|texts| !texts.is_empty()))
    }

    #[test]
    fn settings_become_arguments() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(argument("dataset", text("-d")), some("--dataset=-d"));
        assert_eq!(argument("limit", text("3")), some("--limit=3"));
        assert_eq!(argument("layers", text("4")), some("--layers=4"));
        assert_eq!(argument("exact", Value::Switch(true)), some("--exact"));
        assert_eq!(argument("exact", Value::Switch(false)), Ok(None));
        assert_eq!(argument("class", Value::List(vec![Text::plain("a"), Text::plain("15")])), some("--class=a --class=15"));
        let names = Value::List(vec![Text::plain("tabby, tabby cat"), Text::plain("dog")]);
        assert_eq!(argument("class", names), some(r"--class=tabby\, tabby cat --class=dog"));
        assert_eq!(argument("layers", Value::List(vec![Text::plain("1-2"), Text::plain("4")])), some("--layers=1-2 --layers=4"));
        let table = Value::Table(vec![("a=b".into(), Text::plain("c")), ("d".into(), Text::plain("15"))]);
        assert_eq!(argument("map", table), some(r"--map=a\=b=c --map=d=15"));
        assert_eq!(argument("class", text("a,b")), some("--class=a,b"));
        assert_eq!(argument("tags", Value::List(Vec::new())), Ok(None));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(argument("out", text("maps")), some("--out=/jobs/maps"));
        assert_eq!(argument("out", text("/maps")), some("--out=/maps"));
        assert_eq!(argument("ids", text("../ids.txt")), some("--ids=/jobs/../ids.txt"));
        assert_eq!(argument("metrics-file", text("{name}.prom")), some("--metrics-file=/jobs/{name}.prom"));
        assert_eq!(argument("model", text("m.pt2")), some("--model=/jobs/m.pt2"));
        assert_eq!(argument("model", text("resnet50")), some("--model=resnet50"));
        assert_eq!(argument("python", text("python3")), some("--python=python3"));
        assert_eq!(argument("python", text("venv/bin/python")), some("--python=/jobs/venv/bin/python"));
        let home = directories::BaseDirs::new().expect("a home").home_dir().join("maps");
        assert_eq!(argument("out", text("~/maps")), some(&format!("--out={}", home.display())));
        let typed = Setting { key: "out".into(), value: text("maps"), origin: Origin::Set("out=maps".into()) };
        assert_eq!(Keys::new(Path::new("/jobs")).arguments(&typed), Ok(vec!["--out=maps".into()]));
    }

    #[test]
    fn wrong_keys_and_values_are_refused_with_what_there_is() {
        let refused = |key: &str, value: Value| argument(key, value).expect_err("a mistake");
        assert_eq!(refused("clas", text("x")), "there is no key `clas`; the nearest: `class`, `layers`");
        assert!(refused("batch_size", text("x")).contains("`batch-size`"));
        assert!(refused("format", text("json")).contains("camflow run --format"));
        assert_eq!(refused("exact", text("true")), "`exact` is `true` or `false`, without quotes");
        assert_eq!(refused("limit", Value::Switch(true)), "`limit` takes N, not `true` or `false`");
        assert_eq!(refused("tags", Value::Switch(true)), "`tags` takes TAG or an array of them, not `true` or `false`");
        assert_eq!(refused("limit", Value::List(Vec::new())), "`limit` takes one value, not an array");
        assert_eq!(refused("limit", text("many")), "`limit` cannot be `many`: it is a number from 1");
        assert!(refused("limit", text("0")).contains("no sample would be taken"));
        assert_eq!(refused("sub", Value::Table(Vec::new())), "there is no key `sub`");
        assert_eq!(refused("tags", Value::Table(Vec::new())), "`tags` takes TAG or an array of them, not a table");
        assert_eq!(refused("map", text("a=b")), "`map` is a table: write `map = { \"LABEL\" = \"CLASS\" }`");
        assert_eq!(refused("npy", text("f33")), "`npy` cannot be `f33`: it takes `f32`, `f16`, `none`; did you mean `f32`?");
        assert!(refused("method", text("gradcan")).ends_with("did you mean `gradcam`?"));
        let secret = |key: &str| {
            let text = Text { written: "${PW}".into(), filled: "hunter2".into(), is_secret: true };
            refused(key, Value::Text(text))
        };
        assert_eq!(secret("limit"), "`limit` cannot be `${PW}`");
        assert!(secret("npy").ends_with("it takes `f32`, `f16`, `none`"));
    }
}
