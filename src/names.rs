//! Names that users type: one word per choice, and "did you mean" for those that do not exist.

/// A setting with a few values, each with the one name that flags, job files and fingerprints use.
pub trait Choice: Copy + 'static {
    /// Every value, in the order of the help text.
    const ALL: &'static [Self];

    /// The value's name.
    fn name(self) -> &'static str;
}

/// At most `count` of `known`, nearest first, by Jaro-Winkler similarity; equally near ones in alphabetical order.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> = known.into_iter().map(|other| (strsim::jaro_winkler(name, other), other)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(count);
    scored.into_iter().map(|(_, other)| other).collect()
}

/// Names in backticks with commas between, for messages.
pub fn backticked<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_come_first() {
        assert_eq!(nearest("persn", ["car", "person", "parson"], 1), ["person"]);
        assert!(nearest("x", [], 3).is_empty());
    }
}
