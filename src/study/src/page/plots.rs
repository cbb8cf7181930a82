//! Plots as SVG, drawn into the page.

use std::fmt::Write;

use crate::distribution::{Distribution, position};
use camflow_measure::Measure;

const BARS: usize = 40;
const BAR: f64 = 7.0;
const WIDTH: f64 = BAR * BARS as f64;
const HEIGHT: f64 = 34.0;

/// The histogram of a distribution over its measure's whole range: bars as high as their share of the highest, a line at the median, a
/// dashed one at chance.
pub(super) fn histogram(distribution: &Distribution, measure: Measure) -> String {
    let counts = distribution.histogram(BARS);
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut svg =
        format!(r#"<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{}</title>"#, summary(distribution));
    for (bar, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (HEIGHT * *count as f64 / highest).max(1.0);
        let below_chance = measure == Measure::EnergyRatio && bar < BARS / 2;
        let _ = write!(
            svg,
            r#"<rect class="bar{}" x="{:.1}" y="{:.1}" width="{:.1}" height="{height:.1}"/>"#,
            if below_chance { " low" } else { "" },
            bar as f64 * BAR + 0.5,
            HEIGHT - height,
            BAR - 1.0,
        );
    }
    if measure == Measure::EnergyRatio {
        let _ = write!(svg, r#"<line class="chance" x1="{0}" x2="{0}" y1="0" y2="{HEIGHT}"/>"#, WIDTH / 2.0);
    }
    if let Some(median) = distribution.median() {
        let x = WIDTH * position(measure, median);
        let _ = write!(svg, r#"<line class="median" x1="{x:.1}" x2="{x:.1}" y1="0" y2="{HEIGHT}"/>"#);
    }
    svg + "</svg>"
}

fn summary(distribution: &Distribution) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
    let (min, max) = distribution.bounds().unzip();
    format!(
        "{} heatmaps; median {}, quartiles {} and {}, from {} to {}",
        distribution.count(),
        number(distribution.median()),
        number(distribution.quantile(0.25)),
        number(distribution.quantile(0.75)),
        number(min),
        number(max),
    )
}

/// The ticks below the histograms of a measure.
pub(super) fn axis(measure: Measure) -> String {
    let ticks: &[(f64, &str)] = match measure {
        Measure::EnergyRatio => &[(0.0, "0"), (0.25, "⅓"), (0.5, "1"), (0.75, "3"), (0.9, "9"), (1.0, "∞")],
        Measure::RankCorrelation => &[(0.0, "-1"), (0.5, "0"), (1.0, "1")],
        Measure::Road => &[(0.0, "-0.5"), (0.5, "0"), (1.0, "0.5")],
        measure if measure.is_yes_or_no() => &[(0.0, "no"), (1.0, "yes")],
        _ => &[(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")],
    };
    let mut svg = format!(r#"<svg class="plot axis" viewBox="0 0 {WIDTH} 12">"#);
    for (place, label) in ticks {
        let anchor = if *place == 0.0 {
            "start"
        } else if *place == 1.0 {
            "end"
        } else {
            "middle"
        };
        let _ = write!(svg, r#"<text x="{:.1}" y="10" text-anchor="{anchor}">{label}</text>"#, WIDTH * place);
    }
    svg + "</svg>"
}
