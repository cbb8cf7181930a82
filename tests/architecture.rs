//! The walls inside of crates, and which outside crate is known where. Those between crates are their manifests'.

#[path = "architecture/circles.rs"]
mod circles;

use std::{
    fs,
    path::{Path, PathBuf},
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

/// Package, a module of each circle that is there all the same, and why.
const CIRCLES: &[(&str, &str, &str)] = &[
    ("src/engine", ROOT, "the root is the engine, which the steps of a job take"),
    ("src/measure", ROOT, "the root is the measured heatmap, of which ranks and attention are measures"),
    ("src/report", ROOT, "the root is the reporter, of which the progress is a part"),
    ("src/study", ROOT, "the root is the study, which its pages are written from"),
    ("src/media", "image", "readers of formats keep to the limits of images, which are read by them"),
    ("src/media", "mask", "drawing shapes is a method of the mask, and an object's own mask is one of the shapes"),
    ("src/storage", "folder", "the folder gives its journal and leases, which are files in it"),
    ("src/torch", "explain", "the parts of the explainer are methods of it"),
    ("src/torch", "program::build", "arguments and signature of a graph are read by methods of what builds it"),
    ("src/torch", "program", "a program is read, checked and run"),
    ("", "cli::export", "exported models are cached, and a model that is asked for may have to be exported"),
];

/// What `circles` calls the module of `lib.rs`.
const ROOT: &str = "the crate's root";

fn root() -> &'static Path {
    Path::new(".")
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
    members(group).map(|member| member.split(['{', ':']).next().unwrap_or("").trim().to_owned()).collect()
}

/// The members of a `use` group, nested groups as one.
fn members(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    group.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn packages() -> Vec<PathBuf> {
    let members = fs::read_dir(root().join("src")).expect("the packages").map(|entry| entry.expect("an entry").path());
    let mut packages: Vec<_> = members.filter(|folder| folder.join("Cargo.toml").is_file()).collect();
    packages.push(root().to_owned());
    packages
}

#[test]
fn modules_do_not_depend_on_each_other_in_circles() {
    let mut unknown = Vec::new();
    let mut known: Vec<_> = CIRCLES.iter().map(|(package, module, _)| (*package, *module)).collect();
    for folder in packages() {
        let package = folder.strip_prefix(root()).expect("a folder below the root").display().to_string();
        for circle in circles::circles(&folder.join("src")) {
            let is_of = |(of, module): &(&str, &str)| *of == package && circle.iter().any(|other| other == module);
            if CIRCLES.iter().any(|(package, module, _)| is_of(&(package, module))) {
                known.retain(|exception| !is_of(exception));
            } else {
                unknown.push((package.clone(), circle));
            }
        }
    }
    assert!(unknown.is_empty(), "modules that depend on each other: {unknown:#?}");
    assert!(known.is_empty(), "no exceptions any more: {known:?}");
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
    let packages = packages();
    for (outside, known_by) in KNOWN_BY {
        let knowing = packages.iter().filter(|folder| manifest(folder).contains(&format!("\n{outside}.workspace = true")));
        let mut knowing: Vec<_> = knowing.map(|folder| folder.as_path()).collect();
        let mut known_by: Vec<_> = known_by.iter().map(|folder| root().join(folder)).collect();
        knowing.sort_unstable();
        known_by.sort_unstable();
        assert_eq!(knowing, known_by, "packages that know `{outside}`");
    }
}
