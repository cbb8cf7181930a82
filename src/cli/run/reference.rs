//! `--print-default`: a job file that explains every key, made from the flags' own help texts.

use std::path::Path;

use clap::{Arg, ArgAction, Command};

use super::keys::Keys;
use crate::cli::annotate;

/// How wide explanations are.
const WIDTH: usize = 100;

const HEAD: &str = "\
# A job file of camflow: `camflow run FILE` runs its jobs, one after the other.
# The keys of a job are the flags of `camflow annotate`. What is commented out shows the default, or an example where
# there is none.
#
# Relative paths are relative to the folder of this file; a path may begin with `~/`.
# `${NAME}` in a string is the environment variable NAME, `$$` is a dollar.
# An empty array takes back what `[defaults]` says.

version = 1

# What is written here holds for every job that does not say otherwise.
[defaults]

# One table for each job. Write as many as you like.
[[job]]
# What the job is called in messages and reports: letters, digits, `-` and `_`
name = \"example\"
";

/// The whole file.
pub fn text() -> String {
    let keys = Keys::new(Path::new("/"));
    let mut text = HEAD.to_owned();
    let mut required: Vec<_> = keys.all().collect();
    required.sort_by_key(|(_, arg)| !arg.is_required_set());
    for (key, arg) in required {
        let (value, is_example) = value(arg);
        text.push('\n');
        text.push_str(&explanation(arg, is_example));
        let mark = if arg.is_required_set() { "" } else { "#" };
        text.push_str(&format!("{mark}{key} = {value}\n"));
    }
    text
}

/// The help text as comments, with the values that there are to choose from.
fn explanation(arg: &Arg, is_example: bool) -> String {
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let possible: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !possible.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        help.push_str(&format!("; one of: {}", possible.join(", ")));
    }
    if is_example && !arg.is_required_set() {
        help.push_str(" (an example)");
    }
    let mut lines = vec!["#".to_owned()];
    for word in help.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// The default, else an example (`true`), as TOML.
fn value(arg: &Arg) -> (String, bool) {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return ("false".to_owned(), false);
    }
    if annotate::is_table(arg) {
        return ("{ \"a label\" = \"a class\" }".to_owned(), true);
    }
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let default = arg.get_default_values().first().and_then(|value| value.to_str());
    let (text, is_example) = match default {
        Some(default) => (default.to_owned(), false),
        None => (example(arg), true),
    };
    // JSON's strings are TOML's too.
    let is_number = text.parse::<u64>().is_ok();
    let quoted = if is_number { text } else { serde_json::Value::from(text).to_string() };
    (if is_list { format!("[{quoted}]") } else { quoted }, is_example)
}

/// Something that the flag takes: the name of its value, else a number, a part of the whole, a file for metrics.
fn example(arg: &Arg) -> String {
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("value".to_owned(), |name| name.to_lowercase());
    let named = if name == "n" { "1" } else { &name };
    let candidates = [named, "1", "1/10", "camflow-{name}.prom"].map(ToOwned::to_owned);
    let is_taken = |text: &&String| {
        let alone = Command::new("key").no_binary_name(true).disable_help_flag(true).arg(arg.clone().required(false));
        let flag = arg.get_long().unwrap_or_default();
        alone.try_get_matches_from([format!("--{flag}={text}")]).is_ok()
    };
    candidates.iter().find(is_taken).cloned().unwrap_or(name)
}
