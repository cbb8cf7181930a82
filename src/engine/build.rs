//! Makes tests find at run time the libtorch that camflow-torch was built against.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = env::var("DEP_CAMFLOW_DISPATCH_LIBTORCH_LIB").expect("camflow-torch says where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
