//! What the answers of a model about changed images say together.

/// Confidence that both replacements must cost together, so that there is something to share out.
pub const LEAST_COST: f64 = 0.01;

/// How much a model leans on what is around an object, in `[0, 1]`: what replacing the background costs, by what replacing the object
/// and replacing the background cost, `max(0, c - c_B) / (max(0, c - c_O) + max(0, c - c_B))`. 0: the background is of no use, 1: the
/// object is of none. `None` where both cost less than [`LEAST_COST`] together.
///
/// It compares a model's sensitivity to both, as the relative foreground sensitivity of Moayeri et al., *A Comprehensive Study of Image
/// Classification Model Sensitivity to Foregrounds, Backgrounds, and Visual Attributes* (2022), <https://arxiv.org/abs/2201.10766>, does
/// by accuracies over a dataset; here by the confidences of one image, or by their means.
pub fn context_reliance(confidence: f64, without_object: f64, without_background: f64) -> Option<f64> {
    let [object, background] = [without_object, without_background].map(|left| (confidence - left).max(0.0));
    let both = object + background;
    (both >= LEAST_COST).then(|| background / both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_share_that_the_background_costs() {
        let close =
            |found: Option<f64>, wanted: f64| assert!((found.expect("known") - wanted).abs() < 1e-12, "{found:?} {wanted}");
        close(context_reliance(0.9, 0.1, 0.9), 0.0);
        close(context_reliance(0.9, 0.9, 0.2), 1.0);
        close(context_reliance(0.9, 0.3, 0.7), 0.25);
        close(context_reliance(0.8, 0.0, 0.0), 0.5);
        // What gains from a replacement loses nothing.
        close(context_reliance(0.5, 0.7, 0.3), 1.0);
        assert_eq!(context_reliance(0.9, 0.9, 0.95), None);
        assert_eq!(context_reliance(0.005, 0.0, 0.001), None, "too little to share out");
        assert_eq!(context_reliance(f64::NAN, 0.5, 0.5), None);
    }
}
