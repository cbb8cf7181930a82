//! The settings of a job as they are, for its report.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args as _, Command};
use serde_json::{Map, Value, json};

use super::Args;
use crate::names::split_list;

/// Stands for what is not to be read in a report.
const HIDDEN: &str = "(hidden)";

/// Every setting by the name of its flag, defaults too; `null` where there is none. `written` is what to show of those that hold
/// environment variables.
pub fn settings(matches: &ArgMatches, written: &BTreeMap<String, String>) -> Map<String, Value> {
    let command = Args::augment_args(Command::new("annotate"));
    let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    named.map(|(name, arg)| (name.to_owned(), setting(arg, name, matches, written))).collect()
}

/// Whether a flag says something of a name: `NAME=VALUE`, a table in job files.
pub fn is_table(arg: &Arg) -> bool {
    arg.get_value_names().and_then(|names| names.first()).is_some_and(|name| name.contains('='))
}

fn setting(arg: &Arg, name: &str, matches: &ArgMatches, written: &BTreeMap<String, String>) -> Value {
    let id = arg.get_id().as_str();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return json!(matches.get_flag(id));
    }
    let Some(raw) = matches.get_raw(id) else { return Value::Null };
    // What is hidden in the help text is hidden here.
    if arg.is_hide_env_values_set() {
        return json!(HIDDEN);
    }
    if let Some(written) = written.get(name) {
        return json!(written);
    }
    let mut values: Vec<String> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
    match arg.get_action() {
        ArgAction::Append if is_table(arg) => json!(values),
        ArgAction::Append => json!(values.iter().flat_map(|value| split_list(value)).collect::<Vec<_>>()),
        _ => json!(values.pop()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_complete_and_hold_no_secrets() {
        let line = [
            "x",
            "--dataset",
            "d",
            "--class",
            "a,b",
            "--class",
            r"c\, d",
            "--map=a=b",
            "--exact",
            "--limit=3",
            "--database-uri",
            "mongodb://me:pw@host",
            "--out=s",
        ];
        let matches = Args::augment_args(Command::new("x")).get_matches_from(line);
        let config = settings(&matches, &[("out".to_owned(), "${S}".to_owned())].into());
        for (key, value) in [
            ("dataset", json!("d")),
            ("class", json!(["a", "b", "c, d"])),
            ("map", json!(["a=b"])),
            ("method", json!(["gradcam"])),
            ("exact", json!(true)),
            ("overwrite", json!(false)),
            ("limit", json!("3")),
            ("ids", Value::Null),
            ("tags", Value::Null),
            ("database-uri", json!("(hidden)")),
            ("out", json!("${S}")),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
        assert!(config.len() > 30, "{config:?}");
    }
}
