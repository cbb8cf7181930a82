//! The walls inside of crates, and which outside crate is known where. Those between crates are their manifests'.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Folder of sources, relative to the root -> what it may not use of its own crate.
const MAY_NOT_USE: &[(&str, &[&str])] = &[("src/torch/src/program", &["explain"])];

/// Outside crate -> the only packages, as folders, that may depend on it.
const KNOWN_BY: &[(&str, &[&str])] = &[
    ("clap", &["."]),
    ("mongodb", &["src/fiftyone"]),
    ("tch", &["src/torch", "."]),
    ("torch-sys", &["src/torch"]),
    ("schemars", &["src/engine"]),
    ("indicatif", &["src/report"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

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

/// Code without comments and without tests, which may use what they like.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_module_imports_upwards() {
    let mut wrong = Vec::new();
    for (folder, may_not_use) in MAY_NOT_USE {
        let mut found = Vec::new();
        sources(&root().join(folder), &mut found);
        assert!(!found.is_empty(), "no sources in {folder}");
        for (path, text) in found {
            let code = code(&text);
            // `crate::x` and the members of `use crate::{ x, y::z }`.
            for other in *may_not_use {
                let grouped = code.split("use crate::{").skip(1).any(|group| {
                    let group = group.split("};").next().unwrap_or("");
                    top_level(group).iter().any(|member| member == other)
                });
                if grouped || code.contains(&format!("crate::{other}::")) {
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

/// Folders whose files and folders use each other in one direction only.
const WITHOUT_CIRCLES: &[&str] = &["src/torch/src/program", "src/torch/src/explain"];

#[test]
fn files_use_each_other_in_one_direction() {
    for folder in WITHOUT_CIRCLES {
        let path = root().join(folder);
        let area = path.file_name().expect("a name").to_str().expect("UTF-8");
        let mut found = Vec::new();
        sources(&path, &mut found);
        // First part of a path below the folder, without `.rs` -> what it uses.
        let module = |source: &str| {
            let below = Path::new(source).strip_prefix(&path).expect("below the folder");
            below.iter().next().expect("a name").to_str().expect("UTF-8").trim_end_matches(".rs").to_owned()
        };
        let modules: BTreeSet<String> = found.iter().map(|(source, _)| module(source)).filter(|name| name != "mod").collect();
        assert!(modules.len() > 10, "no sources in {folder}");
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (source, text) in found.iter().filter(|(source, _)| modules.contains(&module(source))) {
            let is_nested = Path::new(source).parent() != Some(&path) && !source.ends_with("/mod.rs");
            let text = code(text);
            let parent = if is_nested { "super::super::" } else { "super::" };
            let paths = [parent.to_owned(), format!("crate::{area}::"), format!(" {area}::")];
            let named = paths.iter().flat_map(|path| text.split(path.as_str()).skip(1)).flat_map(members);
            let own = module(source);
            let others = named.filter(|name| modules.contains(name) && *name != own);
            uses.entry(own.clone()).or_default().extend(others.collect::<Vec<_>>());
        }
        // What nothing open uses is in no circle.
        while let Some(last) = uses.iter().find(|(_, used)| used.iter().all(|other| !uses.contains_key(other))) {
            let last = last.0.clone();
            uses.remove(&last);
        }
        assert!(uses.is_empty(), "files of {folder} that use each other in a circle, or what is in one: {uses:#?}");
    }
}

/// The first names of what a path leads to: one, or those of the group in braces.
fn members(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
        return vec![path[..end].to_owned()];
    };
    let mut depth = 1;
    let end = group.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    top_level(&group[..end.unwrap_or(group.len())])
}

/// Each copy to the host is a wait, and `to_host` counts them.
#[test]
fn tensors_come_to_the_host_in_one_way() {
    let mut found = Vec::new();
    sources(&root().join("src/torch/src/explain"), &mut found);
    let others = found.iter().filter(|(_, text)| ["try_from(", "copy_data("].iter().any(|other| code(text).contains(other)));
    let others: Vec<&String> = others.map(|(path, _)| path).collect();
    assert!(others.is_empty(), "no `program::to_host` in {others:?}");
}

#[test]
fn outside_crates_stay_where_they_belong() {
    // Without what only tests know.
    let manifest = |folder: &Path| {
        let text = fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
        text.split("[dev-dependencies]").next().unwrap_or_default().to_owned()
    };
    let members = fs::read_dir(root().join("src")).expect("the packages").map(|entry| entry.expect("an entry").path());
    let mut packages: Vec<_> = members.filter(|folder| folder.join("Cargo.toml").is_file()).collect();
    packages.push(root().to_owned());
    for (outside, known_by) in KNOWN_BY {
        let knowing = packages.iter().filter(|folder| manifest(folder).contains(&format!("\n{outside}.workspace = true")));
        let mut knowing: Vec<_> = knowing.map(|folder| folder.as_path()).collect();
        let mut known_by: Vec<_> = known_by.iter().map(|folder| root().join(folder)).collect();
        knowing.sort_unstable();
        known_by.sort_unstable();
        assert_eq!(knowing, known_by, "packages that know `{outside}`");
    }
}
