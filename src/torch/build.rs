//! Builds the dispatcher shim against the libtorch that tch uses, and makes binaries find that libtorch at run time.

use std::{env, fs, path::Path};

const SOURCES: [&str; 9] =
    ["concatenation", "dispatch", "fusion", "guided", "meter", "normalization", "settings", "transfer", "upsampling"];

fn main() {
    let sources = SOURCES.map(|name| format!("{name}.cpp"));
    for file in sources.iter().map(String::as_str).chain(["guarded.h"]) {
        println!("cargo:rerun-if-changed=src/program/{file}");
    }
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
    // For the build script of the program, which is linked for itself.
    println!("cargo:libtorch_lib={}", lib.display());

    // As one unit: most of the time goes to reading libtorch's headers.
    let unit = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("shim.cpp");
    fs::write(&unit, sources.map(|name| format!("#include \"{name}\"\n")).concat()).expect("the build folder can be written");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(unit)
        .include("src/program")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .flag("-Wno-unused-parameter")
        // What goes over pixels is optimised under test, too.
        .opt_level(3)
        .warnings(false)
        .compile("camflow_dispatch");
}
