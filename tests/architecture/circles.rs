//! Circles between the modules of a crate, by what their files import and name.
//!
//! A file is a module. It depends on the module in which an item stands that it names by `use` or by a path, through whatever
//! re-exports. To re-export is not to depend. Methods of a type count as part of the type's module: an `impl` of its own that
//! stands in another file makes the type's module depend on that file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From the root of a crate: `["stages", "read"]`.
type Module = Vec<String>;

/// A module's text and what it imports.
#[derive(Default)]
struct Source {
    /// Without comments, tests and imports.
    body: String,
    imports: Vec<Import>,
}

struct Import {
    path: Vec<String>,
    /// What it is called here; `*` for everything.
    name: String,
    is_exported: bool,
}

/// The groups of modules that depend on each other, of the crate in this folder.
pub(crate) fn circles(folder: &Path) -> Vec<Vec<String>> {
    let mut sources = BTreeMap::new();
    read(folder, &Vec::new(), &mut sources);
    assert!(sources.contains_key(&Vec::new()), "no crate in {}", folder.display());
    let edges: BTreeMap<&Module, BTreeSet<Module>> = sources.keys().map(|module| (module, uses(module, &sources))).collect();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = edges.keys().map(|module| (*module, reach(module, &edges))).collect();
    let mut found = BTreeSet::new();
    for (module, others) in &reached {
        let circle: Vec<String> = others.iter().filter(|other| reached[**other].contains(module)).map(|m| shown(m)).collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn shown(module: &Module) -> String {
    if module.is_empty() { super::ROOT.to_owned() } else { module.join("::") }
}

fn reach<'a>(from: &'a Module, edges: &'a BTreeMap<&'a Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for other in edges.get(module).into_iter().flatten() {
            if reached.insert(other) {
                next.push(other);
            }
        }
    }
    reached
}

/// The files of a module and of those below it, without what is compiled for tests alone.
fn read(folder: &Path, module: &Module, sources: &mut BTreeMap<Module, Source>) {
    let mut of_tests = BTreeSet::new();
    for name in ["lib.rs", "mod.rs"] {
        if let Ok(text) = fs::read_to_string(folder.join(name)) {
            let declared = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split(';').next());
            of_tests.extend(declared.map(str::to_owned));
            sources.insert(module.clone(), source(&text));
        }
    }
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|name| !of_tests.contains(*name)) else {
            continue;
        };
        let below: Module = module.iter().cloned().chain([name.to_owned()]).collect();
        if path.is_dir() {
            // Beside these in the root of the repository are the other crates.
            if path.join("mod.rs").is_file() || path.with_extension("rs").is_file() {
                read(&path, &below, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && !["lib", "mod", "main"].contains(&name) {
            sources.insert(below, source(&fs::read_to_string(&path).expect("source text")));
        }
    }
}

fn source(text: &str) -> Source {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let mut source = Source::default();
    let mut statement: Option<String> = None;
    let mut is_inline = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or(line).trim_end();
        // What is in braces counts as the file's own.
        is_inline = line != "}" && (is_inline || line.contains("mod ") && line.ends_with('{') && !line.starts_with(' '));
        let line = &if is_inline { line.replacen("super::", "", 1) } else { line.to_owned() };
        let is_import = line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ");
        if statement.is_none() && !is_import {
            source.body += line;
            source.body.push('\n');
            continue;
        }
        let all = statement.take().unwrap_or_default() + line.trim();
        match all.strip_suffix(';') {
            None => statement = Some(all),
            Some(all) => {
                let (before, tree) = all.split_once("use ").expect("an import");
                flatten(tree.trim(), &[], !before.is_empty(), &mut source.imports);
            }
        }
    }
    source
}

/// The paths of a `use` tree.
fn flatten(tree: &str, prefix: &[String], is_exported: bool, imports: &mut Vec<Import>) {
    let tree = tree.trim();
    let with = |path: &str| {
        let segments = path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned);
        prefix.iter().cloned().chain(segments).collect::<Vec<_>>()
    };
    if let Some((path, group)) = tree.split_once('{') {
        let group = group.strip_suffix('}').expect("a group of imports");
        for member in super::members(group) {
            flatten(member, &with(path), is_exported, imports);
        }
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").unzip();
        let mut path = with(path.unwrap_or(tree));
        path.pop_if(|last| last == "self" && !prefix.is_empty());
        let name = alias.map_or_else(|| path.last().cloned().unwrap_or_default(), str::to_owned);
        imports.push(Import { path, name, is_exported });
    }
}

/// The modules that a module depends on.
fn uses(module: &Module, sources: &BTreeMap<Module, Source>) -> BTreeSet<Module> {
    let Source { body, imports } = &sources[module];
    let words: BTreeSet<&str> = body.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let imported = imports.iter().filter(|import| !import.is_exported || words.contains(import.name.as_str()));
    let mut paths: Vec<Vec<String>> = imported.map(|import| import.path.clone()).collect();
    for root in ["crate::", "super::"] {
        for (place, _) in body.match_indices(root) {
            let end = body[place..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(body.len() - place);
            let is_restriction = body[..place].ends_with("pub(in ") || body[..place].ends_with("::");
            if !is_restriction {
                paths.push(body[place..place + end].split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    let mut found: BTreeSet<Module> = paths.iter().filter_map(|path| resolve(module, path, sources, 0)).collect();
    for (other, Source { body: theirs, .. }) in sources {
        for name in theirs.lines().filter_map(implemented) {
            let import = sources[other].imports.iter().find(|import| import.name == name);
            let of_us = import.and_then(|import| resolve(other, &import.path, sources, 0)).is_some_and(|home| home == *module);
            if of_us && other != module {
                found.insert(other.clone());
            }
        }
    }
    found.remove(module);
    found
}

/// The type of which a line begins an inherent `impl`.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        // Parameters hold no `>` of their own before the type but in bounds, which none of ours have.
        Some(parameters) => parameters.split_once("> ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (!line.contains(" for ") && !name.is_empty()).then_some(name)
}

/// The module in which what a path names stands; `None` where that is another crate's.
fn resolve(from: &Module, path: &[String], sources: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from.split_last()?.1.to_vec(),
        child => {
            let below: Module = from.iter().cloned().chain([child.to_owned()]).collect();
            if !sources.contains_key(&below) {
                return None;
            }
            below
        }
    };
    while let Some((next, others)) = rest.split_first() {
        let below: Module = at.iter().cloned().chain([next.clone()]).collect();
        if next == "super" {
            at = at.split_last()?.1.to_vec();
        } else if sources.contains_key(&below) {
            at = below;
        } else {
            let exported = sources.get(&at)?.imports.iter().filter(|import| import.name == *next || import.name == "*");
            let through = |import: &Import| {
                let mut path = import.path.clone();
                path.pop_if(|last| last == "*").is_some().then(|| path.push(next.clone()));
                path.extend(others.iter().cloned());
                resolve(&at, &path, sources, depth + 1)
            };
            // Everything of a module may be exported by one that imports it in turn.
            return exported.filter(|_| depth < 8).find_map(through).or(Some(at));
        }
        rest = others;
    }
    Some(at)
}
