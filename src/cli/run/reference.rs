//! `--print-default`: a job file that explains every key, by what the engine says of it.

use std::path::Path;

use clap::{Args as _, Command};

use super::keys::{Keys, settable};
use crate::{
    cli::annotate,
    engine::{Key, Kind},
    job::{Origin, Setting, Text, Value},
};

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

/// The whole file, with the keys in the order of the flags.
pub(super) fn text() -> String {
    let command = annotate::Args::augment_args(Command::new("annotate"));
    let flags = command.get_arguments().filter_map(|flag| settable().find(|key| flag.get_long() == Some(&key.name)));
    let mut keys: Vec<&Key> = flags.collect();
    keys.sort_by_key(|key| !key.is_required);
    let mut text = HEAD.to_owned();
    for key in keys {
        let (value, is_example) = value(key);
        text.push('\n');
        text.push_str(&explanation(key, is_example));
        let mark = if key.is_required { "" } else { "#" };
        text.push_str(&format!("{mark}{} = {value}\n", key.name));
    }
    text
}

/// What it is for as comments, with the values that there are to choose from.
fn explanation(key: &Key, is_example: bool) -> String {
    let mut help = key.doc.clone();
    if !key.choices.is_empty() {
        help.push_str(&format!("; one of: {}", key.choices.join(", ")));
    }
    if is_example && !key.is_required {
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
fn value(key: &Key) -> (String, bool) {
    match key.kind {
        Kind::Switch => return ("false".to_owned(), false),
        Kind::Table => return ("{ \"a label\" = \"a class\" }".to_owned(), true),
        Kind::Number | Kind::Text | Kind::List => {}
    }
    let (text, is_example) = key.default.clone().map_or_else(|| (example(key), true), |default| (default, false));
    // JSON's strings are TOML's too.
    let is_number = text.parse::<u64>().is_ok();
    let quoted = if is_number { text } else { serde_json::Value::from(text).to_string() };
    (if key.kind == Kind::List { format!("[{quoted}]") } else { quoted }, is_example)
}

/// Something that the key takes: the name of its value, else its first choice, a number, a part of the whole, a file for metrics.
fn example(key: &Key) -> String {
    let name = key.value.to_lowercase();
    let named = match name.as_str() {
        "n" => "1",
        // Every file is another one.
        "file" => key.name.trim_end_matches("-file"),
        name => name,
    };
    let choice = key.choices.first().map_or(named, String::as_str);
    let candidates = [named, choice, "1", "1/10", "camflow-{name}.prom"];
    let is_taken = |text: &&&str| {
        let value = Value::Text(Text::plain(**text));
        let setting = Setting { key: key.name.clone(), value, origin: Origin::Set(String::new()) };
        Keys::new(Path::new("/")).value(&setting).is_ok()
    };
    candidates.iter().find(is_taken).map_or(name.clone(), |text| (*text).to_owned())
}
