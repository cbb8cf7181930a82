//! Heatmaps for a dataset, from a program of your own: `cargo run --example annotate -- DATASET MODEL CLASS OUT`.
#![expect(clippy::print_stderr, reason = "a program for people")]

use camflow::engine::{Engine, JobSpec, Observer};

struct Log;

impl Observer for Log {
    fn notice(&self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dataset, model, class, out] = &arguments[..] else { panic!("DATASET MODEL CLASS OUT") };
    let job = JobSpec { model: model.clone(), class: [class].into(), out: Some(out.into()), ..JobSpec::new(dataset) };
    match Engine::new().annotate(&job.into(), &Log) {
        Ok(done) => eprintln!("{} heatmaps", done.summary.map_or(0, |summary| summary.num_heatmaps)),
        Err(error) => panic!("{error}; {}", error.hints.join("; ")),
    }
}
