//! What is asked of methods that ask the model about other images, and whether a method takes it.

use camflow_diagnostic::Diagnostic;
use camflow_names::{Choice, backticked};
use camflow_torch::explain::{Baseline, Method, Sampling};

/// Those whose images, steps or masks can be counted.
const SAMPLED: [Method; 3] = [Method::Smoothgrad, Method::IntegratedGradients, Method::Rise];
/// Those that start from an image without content.
const WITH_BASELINE: [Method; 2] = [Method::IntegratedGradients, Method::Occlusion];
/// Those that cover a part of the image.
const WITH_WINDOW: [Method; 1] = [Method::Occlusion];

/// Refuses what none of the methods takes.
///
/// # Errors
/// Something is asked that would do nothing.
pub(crate) fn check_sampling(sampling: Sampling, methods: &[Method]) -> Result<(), Diagnostic> {
    let asked = [
        ("cam-samples", sampling.samples.is_some(), &SAMPLED[..]),
        ("cam-baseline", sampling.baseline != Baseline::Own, &WITH_BASELINE[..]),
        ("cam-window", sampling.window.is_some(), &WITH_WINDOW[..]),
    ];
    let unused = asked.into_iter().find(|(_, is_asked, of)| *is_asked && !methods.iter().any(|method| of.contains(method)));
    let Some((flag, _, of)) = unused else { return Ok(()) };
    let of = backticked(of.iter().map(|method| method.name()));
    Err(Diagnostic::invalid(format!("`--{flag}` does nothing without a method that takes it: {of}"))
        .hint(format!("add one with `--method`, or leave out `--{flag}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    #[test]
    fn what_no_method_takes_is_refused() {
        let sampling = Sampling { samples: NonZeroUsize::new(3), ..Sampling::default() };
        assert!(check_sampling(sampling, &[Method::Gradcam, Method::Rise]).is_ok());
        assert!(check_sampling(Sampling::default(), &[Method::Gradcam]).is_ok());
        let refused = check_sampling(sampling, &[Method::Gradcam, Method::Occlusion]).expect_err("refused");
        assert!(refused.message.contains("`--cam-samples`") && refused.message.contains("`rise`"), "{}", refused.message);
        let baseline = Sampling { baseline: Baseline::Black, ..Sampling::default() };
        assert!(check_sampling(baseline, &[Method::Occlusion]).is_ok() && check_sampling(baseline, &[Method::Rise]).is_err());
    }
}
