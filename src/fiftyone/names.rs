//! Names in messages: which known name a mistyped one may have meant, and lists of them.

/// Names nearer than this (Jaro-Winkler, 1 is equal) are worth suggesting; below it, suggestions look random.
const SIMILAR: f64 = 0.75;

/// The known names most like `name`, best first, at most three.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &String)> = known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, candidate)| candidate.clone()).collect()
}

/// `` `a`, `b`, `c` ``
pub(super) fn backticked(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_come_best_first() {
        let known: Vec<String> = ["ground_truth", "predictions", "Ground_Truth2", "x"].map(String::from).into();
        assert_eq!(nearest("ground_truht", &known), ["ground_truth", "Ground_Truth2"]);
        assert!(nearest("zebra", &known).is_empty());
    }

    #[test]
    fn lists_are_in_backticks() {
        assert_eq!(backticked(["a", "b"]), "`a`, `b`");
    }
}
