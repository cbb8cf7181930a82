//! Builds the dispatcher shim against the libtorch that tch uses, makes binaries find that libtorch at run time, and packs the
//! Python package `camflow` into a file that Python runs, for `camflow export`.

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

try:
    sys.exit(main(of_program=True))
finally:
    # The Ctrl-C that ends this may have ended the program that removes the file otherwise.
    with contextlib.suppress(OSError):
        os.remove(sys.argv[0])
        os.rmdir(os.path.dirname(sys.argv[0]))
";

fn main() {
    let packed = Path::new(&env::var("OUT_DIR").expect("cargo says where to build")).join("camflow.pyz");
    fs::write(packed, zipapp(Path::new("python"))).expect("the Python package can be packed");
    println!("cargo:rerun-if-changed=src/program/dispatch.cpp");
    // Printed by torch-sys (`links = "tch"`): the folder of the libtorch libraries that it found.
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is");
    // The link `.venv` may point elsewhere tomorrow; the binary keeps the libtorch that it was built against.
    let lib = Path::new(&lib).canonicalize().unwrap_or_else(|e| {
        panic!("no libtorch at `{lib}`: {e}\nrun `scripts/setup.sh`, or set LIBTORCH to the folder of an installed torch 2.11.0")
    });
    println!("cargo:rerun-if-changed={}", lib.join("libtorch_cpu.so").display());
    let include = lib.parent().expect("libtorch's lib folder has a parent").join("include");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-env=CAMFLOW_LIBTORCH_LIB={}", lib.display());

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/program/dispatch.cpp")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .flag("-Wno-unused-parameter")
        .warnings(false)
        .compile("camflow_dispatch");
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
