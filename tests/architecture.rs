//! The walls between modules: one crate does not enforce them, this does.

use std::{collections::BTreeMap, fs, path::Path};

/// Module -> what it may use of the crate, beside `diagnostic`, in which all say what is wrong. Everything else is upwards or sideways.
const MAY_USE: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("diagnostic", &[]),
    ("media", &["names"]),
    ("measure", &["media", "names"]),
    ("storage", &["media", "names"]),
    ("pipeline", &["measure", "media", "names", "storage"]),
    ("program", &["media", "names"]),
    ("explain", &["measure", "media", "names", "pipeline", "program"]),
    ("fiftyone", &["measure", "media", "names", "pipeline", "storage"]),
    ("job", &["media", "names", "pipeline", "program"]),
    ("report", &["names", "pipeline"]),
    ("study", &["measure", "media", "names"]),
    ("fuzz", &["media", "program"]),
    ("engine", &["explain", "fiftyone", "job", "media", "names", "pipeline", "program", "report", "storage", "study"]),
    ("cli", &["engine", "explain", "fiftyone", "job", "media", "names", "pipeline", "program", "report", "storage", "study"]),
];

/// Crate -> the only modules that may know it.
const KNOWN_BY: &[(&str, &[&str])] = &[
    ("clap", &["cli"]),
    ("schemars", &["engine"]),
    ("mongodb", &["fiftyone"]),
    ("bson", &["fiftyone"]),
    ("tch", &["program", "explain", "cli"]),
    ("indicatif", &["report"]),
    ("anyhow", &["cli"]),
];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("source text")));
        }
    }
}

fn by_module() -> BTreeMap<String, Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let mut modules = BTreeMap::<String, Vec<(String, String)>>::new();
    for (path, text) in found {
        let below = Path::new(&path).strip_prefix(&root).expect("below src");
        let first = below.iter().next().expect("a name").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        modules.entry(module).or_default().push((path, text));
    }
    modules
}

/// Code without comments and without tests, which may use what they like.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_module_imports_upwards() {
    let modules = by_module();
    let mut wrong = Vec::new();
    for (module, files) in &modules {
        if module == "lib" || module == "main" {
            continue;
        }
        let (_, may_use) =
            MAY_USE.iter().find(|(name, _)| name == module).unwrap_or_else(|| panic!("`{module}` has no place in MAY_USE"));
        for (path, text) in files {
            let code = code(text);
            // `crate::x` and the members of `use crate::{ x, y::z }`.
            for other in modules.keys().filter(|other| *other != module && *other != "lib" && *other != "main") {
                let grouped = code.split("use crate::{").skip(1).any(|group| {
                    let group = group.split("};").next().unwrap_or("");
                    top_level(group).iter().any(|member| member == other)
                });
                if (grouped || code.contains(&format!("crate::{other}::")))
                    && other != "diagnostic"
                    && !may_use.contains(&other.as_str())
                {
                    wrong.push(format!("{path} uses `{other}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// First names of the members of a `use` group, not those of nested groups.
fn top_level(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ if depth == 0 => members.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    members.iter().map(|member| member.trim().split("::").next().unwrap_or("").to_owned()).collect()
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (module, files) in by_module() {
        for (krate, known_by) in KNOWN_BY {
            for (path, text) in &files {
                let code = code(text);
                let used = code.contains(&format!("use {krate}::"))
                    || code.contains(&format!(" {krate}::"))
                    || code.contains(&format!("({krate}::"));
                if used && !known_by.contains(&module.as_str()) {
                    wrong.push(format!("{path} uses `{krate}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
