//! Makes binaries find at run time the libtorch that camflow-torch was built against, and packs the Python package `camflow` into
//! a file that Python runs, for `camflow export`.

use std::{
    env, fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

/// What Python runs first of the packed package.
const ZIPAPP_MAIN: &str = "\
import contextlib
import os
import sys

from camflow.export.cli import main
from camflow.garbage import collect_seldom

collect_seldom()
try:
    sys.exit(main(of_program=True))
finally:
    # The Ctrl-C that ends this may have ended the program that removes the file otherwise.
    with contextlib.suppress(OSError):
        os.remove(sys.argv[0])
        os.rmdir(os.path.dirname(sys.argv[0]))
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let packed = Path::new(&env::var("OUT_DIR").expect("cargo says where to build")).join("camflow.pyz");
    fs::write(packed, zipapp(Path::new("python"))).expect("the Python package can be packed");
    let lib = env::var("DEP_CAMFLOW_DISPATCH_LIBTORCH_LIB").expect("camflow-torch says where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}

/// The Python package in `root` as an archive that Python runs: the same bytes for the same sources.
fn zipapp(root: &Path) -> Vec<u8> {
    let mut sources = Vec::new();
    find_sources(&root.join("camflow"), &mut sources);
    sources.sort();
    let mut made = ZipWriter::new(Cursor::new(Vec::new()));
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).last_modified_time(DateTime::default());
    let mut add = |name: &str, content: &[u8]| {
        made.start_file(name, options).expect("an entry can be added");
        made.write_all(content).expect("an entry can be written");
    };
    add("__main__.py", ZIPAPP_MAIN.as_bytes());
    for path in &sources {
        // Not the folder: Python keeps its byte code in it, and each run would have the program built again.
        println!("cargo:rerun-if-changed={}", path.display());
        let name = path.strip_prefix(root).expect("sources lie in the root");
        let name: Vec<_> = name.iter().map(|part| part.to_str().expect("names of modules are ASCII")).collect();
        add(&name.join("/"), &fs::read(path).expect("a source can be read"));
    }
    made.finish().expect("the archive can be finished").into_inner()
}

/// The Python files below `folder`.
fn find_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the Python package is there") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            find_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "py") {
            found.push(path);
        }
    }
}
