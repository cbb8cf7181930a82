//! A comparison as one HTML file that needs nothing else, in the style of the report.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    aligned::SIDE,
    comparison::{Agreements, Changed, Comparison, IMPROBABLE, PairedSeries, Row},
    gate::{Judged, Verdict},
    quantity::{Better, Quantity},
    said::PairNames,
    tables::Subject,
};
use crate::{
    distribution::Distribution,
    findings::Finding,
    page::{STYLE, brief, escaped, image, number, said, with_code},
};
use camflow_measure::{MeasuredHeatmap, Series};
use camflow_media::{RgbImage, encode_rgb, jet, shown};
use camflow_names::Choice;

/// Series whose mean heatmaps are shown.
const MAX_MEANS: usize = 24;
/// Rows of a table; the JSON has all.
const MAX_ROWS: usize = 60;

/// The page. Pictures that cannot be made are replaced by the reason.
pub fn comparison_page(comparison: &Comparison, judged: &[Judged], findings: &[Finding], subject: Subject<'_>) -> String {
    let names = PairNames::of(comparison);
    let title = format!("Where the model looks, A against B: {}", escaped(subject.dataset));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{}</style>\n<h1>{title}</h1>\n",
        include_str!("compare.css"),
    );
    html += &heading(comparison, subject);
    html += &gates(judged);
    html += &said(findings, None);
    html += &totals(comparison);
    html += &changes(comparison);
    html += &means(comparison, &names, subject);
    html += &by_series(comparison, &names);
    html += &agreement(comparison, &names);
    html += &definitions(comparison);
    html + "</html>\n"
}

fn heading(comparison: &Comparison, subject: Subject<'_>) -> String {
    let sides: [Vec<&Series>; 2] =
        [comparison.series.keys().map(|(a, _)| a).collect(), comparison.series.keys().map(|(_, b)| b).collect()];
    let datasets = [subject.dataset, subject.against.unwrap_or(subject.dataset)];
    let mut html = "<div class=\"wide\"><table class=\"sides\"><tbody>\n".to_owned();
    for (letter, (name, (series, dataset))) in ["A", "B"].iter().zip(subject.names.iter().zip(sides.iter().zip(datasets))) {
        let distinct = |part: fn(&Series) -> &String| {
            let mut found: Vec<&String> = series.iter().map(|series| part(series)).collect();
            found.sort_unstable();
            found.dedup();
            found.iter().map(|part| format!("<code>{}</code>", escaped(part))).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            html,
            "<tr><th>{letter}</th><td><b>{}</b>{}</td><td>model {}</td><td>method {}</td><td>layers {}</td></tr>",
            escaped(name),
            if subject.against.is_some() { format!(" of <code>{}</code>", escaped(dataset)) } else { String::new() },
            distinct(|series| &series.model),
            distinct(|series| &series.method),
            distinct(|series| &series.layer),
        );
    }
    let selection = subject.selection.map_or_else(String::new, |selection| format!(" ({})", escaped(selection)));
    let _ = writeln!(
        html,
        "</tbody></table></div>\n<p class=\"soft\">{} samples{selection}, {} pairs of heatmaps. {} Made by camflow {}.</p>",
        comparison.num_samples,
        comparison.num_pairs,
        escaped(subject.created),
        env!("CARGO_PKG_VERSION"),
    );
    let unpaired = comparison.unpaired;
    let left: Vec<String> = [
        (unpaired.only_a, "heatmaps that only A has"),
        (unpaired.only_b, "heatmaps that only B has"),
        (unpaired.other_class, "pairs that explain different classes"),
        (unpaired.samples_only_a, "samples that only A's dataset has with heatmaps"),
        (unpaired.samples_only_b, "samples that only B's dataset has with heatmaps"),
        (unpaired.samples_several, "samples of whose image B's dataset has several"),
        (comparison.maps.num_unreadable, "pairs whose files cannot be read (their measures count)"),
    ]
    .into_iter()
    .filter(|(num, _)| *num > 0)
    .map(|(num, what)| format!("{num} {what}"))
    .collect();
    if !left.is_empty() {
        let _ = writeln!(html, "<p class=\"soft\">Left out: {}.</p>", left.join("; "));
    }
    html
}

fn gates(judged: &[Judged]) -> String {
    if judged.is_empty() {
        return String::new();
    }
    let mut html = "<h2>Thresholds</h2>\n<ul class=\"findings\">\n".to_owned();
    for judged in judged {
        let text = judged.text().unwrap_or_else(|| format!("{} is known of no pair", judged.gate.name()));
        let class = if judged.verdict == Some(Verdict::Kept) { "kept" } else { "low" };
        let (word, rest) = text.split_once(':').unwrap_or(("", &text));
        let _ = writeln!(html, "<li><b class=\"{class}\">{}</b>{}</li>", escaped(word), with_code(rest));
    }
    html + "</ul>\n"
}

/// What a difference means, in a few words, and how it is coloured.
fn verdict(row: &Row<'_>) -> (&'static str, &'static str) {
    let is_less = row.difference.mean < 0.0;
    let class = match (row.quantity.better(), is_less) {
        (Better::Neither, _) => "",
        (Better::Higher, true) | (Better::Lower, false) => "low",
        (Better::Higher, false) | (Better::Lower, true) => "high",
    };
    if row.difference.num_higher + row.difference.num_lower == 0 {
        return ("the same", "soft");
    }
    match (row.is_clear(), row.is_small(), is_less) {
        (false, ..) => ("not clear", "soft"),
        (true, true, true) => ("lower, by little", class),
        (true, true, false) => ("higher, by little", class),
        (true, false, true) => ("lower", class),
        (true, false, false) => ("higher", class),
    }
}

const HEAD: &str = "<th class=\"number\">A</th><th class=\"number\">B</th>\
                    <th class=\"number\">difference</th><th>95 % interval</th><th></th><th class=\"number\">p (Holm)</th><th>B is</th>";

fn cells(row: &Row<'_>, widest: f64) -> String {
    let difference = row.difference;
    let (words, class) = verdict(row);
    let interval = difference.interval.map_or_else(String::new, |[low, high]| format!("{low:+.3} to {high:+.3}"));
    format!(
        "<td class=\"number\">{}</td><td class=\"number\">{:.3}</td><td class=\"number\">{:.3}</td><td class=\"number\">{:+.3}</td>\
         <td class=\"nowrap\">{interval}</td><td>{}</td><td class=\"number\">{}</td><td class=\"nowrap {class}\">{words}</td>",
        difference.num,
        difference.means[0],
        difference.means[1],
        difference.mean,
        plot(row, widest),
        probability(row.corrected),
    )
}

fn probability(p: f64) -> String {
    if p < 0.001 { "&lt; 0.001".to_owned() } else { format!("{p:.3}") }
}

/// The interval around its mean, with a line at no difference.
fn plot(row: &Row<'_>, widest: f64) -> String {
    let Some([low, high]) = row.difference.interval else { return String::new() };
    let x = |value: f64| 60.0 + 56.0 * (value / widest).clamp(-1.0, 1.0);
    let (_, class) = verdict(row);
    format!(
        "<svg class=\"interval {class}\" viewBox=\"0 0 120 12\" role=\"img\"><title>{:+.3}, from {low:+.3} to {high:+.3}</title>\
         <line class=\"chance\" x1=\"60\" x2=\"60\" y1=\"0\" y2=\"12\"/><line class=\"span\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"6\" y2=\"6\"/>\
         <circle cx=\"{:.1}\" cy=\"6\" r=\"3\"/></svg>",
        row.difference.mean,
        x(low),
        x(high),
        x(row.difference.mean),
    )
}

/// The farthest that an interval reaches from no difference.
fn widest<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> f64 {
    let reach = rows.filter_map(|row| row.difference.interval).flatten().map(f64::abs);
    reach.fold(f64::MIN_POSITIVE, f64::max)
}

fn totals(comparison: &Comparison) -> String {
    let rows = comparison.totals();
    if rows.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<h2>All pairs</h2>\n<p class=\"soft\">One observation a sample: the mean of its heatmaps.</p>\n\
         <div class=\"wide\"><table><thead><tr><th>measure</th><th class=\"number\">samples</th>{HEAD}</tr></thead><tbody>\n"
    );
    for row in &rows {
        // Measures have ranges of their own.
        let widest = widest(std::iter::once(row));
        let _ = writeln!(
            html,
            "<tr><td title=\"{}\"><code>{}</code></td>{}</tr>",
            escaped(description(row.quantity)),
            row.quantity.name(),
            cells(row, widest)
        );
    }
    html + "</tbody></table></div>\n"
}

fn by_series(comparison: &Comparison, names: &PairNames) -> String {
    let rows = comparison.rows();
    let mut html = "<h2>By class and layer</h2>\n".to_owned();
    for &quantity in Quantity::ALL {
        let of: Vec<&Row<'_>> = rows.iter().filter(|row| row.quantity == quantity).collect();
        if of.is_empty() {
            continue;
        }
        let open = if quantity == comparison.ranked_by { " open" } else { "" };
        let num_clear = of.iter().filter(|row| row.is_clear()).count();
        let _ = write!(
            html,
            "<details{open}><summary><code>{}</code> <span class=\"soft\">{}; {num_clear} of {} differ clearly</span></summary>\n\
             <div class=\"wide\"><table><thead><tr><th>class and layer</th><th class=\"number\">pairs</th>{HEAD}</tr></thead><tbody>\n",
            quantity.name(),
            escaped(description(quantity)),
            of.len(),
        );
        let widest = widest(of.iter().copied());
        for row in of.iter().take(MAX_ROWS) {
            let name = row.series.map_or_else(String::new, |series| names.name(series));
            let _ = writeln!(html, "<tr><td>{}</td>{}</tr>", with_code(&name), cells(row, widest));
        }
        html += "</tbody></table></div>";
        if of.len() > MAX_ROWS {
            let _ = write!(html, "<p class=\"soft\">{} more are in the JSON.</p>", of.len() - MAX_ROWS);
        }
        html += "</details>\n";
    }
    html
}

fn description(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Measure(measure) => brief(measure),
        Quantity::Correct => "whether the model classifies the image as its label does",
    }
}

fn agreement(comparison: &Comparison, names: &PairNames) -> String {
    if comparison.maps.num_read == 0 {
        return String::new();
    }
    let row = |name: &str, maps: &Agreements| {
        let of = |distribution: &Distribution| {
            let numbers = [distribution.mean(), distribution.quantile(0.1), distribution.quantile(0.9)];
            numbers.map(|value| format!("<td class=\"number\">{}</td>", number(value))).concat()
        };
        format!(
            "<tr><td>{name}</td><td class=\"number\">{}</td>{}{}<td class=\"number\">{}</td></tr>\n",
            maps.num_read,
            of(&maps.overlap),
            of(&maps.rank_correlation),
            maps.num_identical,
        )
    };
    let mut html = "<h2>Agreement of the heatmaps</h2>\n<p class=\"soft\">Overlap: the share of the energy that lies in the same places, 1 \
                    less the total variation distance. Rank correlation: Spearman's, of the 8-bit levels. Tenths: nine of ten pairs are \
                    above the first, one of ten above the second.</p>\n<div class=\"wide\"><table><thead><tr><th>class and layer</th>\
                    <th class=\"number\">pairs</th><th class=\"number\">overlap, mean</th><th class=\"number\">lowest tenth</th>\
                    <th class=\"number\">highest tenth</th><th class=\"number\">rank corr., mean</th><th class=\"number\">lowest tenth</th>\
                    <th class=\"number\">highest tenth</th><th class=\"number\">identical</th></tr></thead><tbody>\n"
        .to_owned();
    html += &row("all", &comparison.maps);
    for (series, paired) in comparison.series.iter().take(MAX_ROWS).filter(|_| comparison.series.len() > 1) {
        html += &row(&with_code(&names.name(series)), &paired.maps);
    }
    html += "</tbody></table></div>\n";
    if comparison.series.len() > MAX_ROWS {
        let _ = writeln!(html, "<p class=\"soft\">{} more are in the JSON.</p>", comparison.series.len() - MAX_ROWS);
    }
    html
}

/// The samples that changed most, each with both heatmaps.
fn changes(comparison: &Comparison) -> String {
    let by = comparison.ranked_by.name();
    let lists = [
        (format!("Least <code>{by}</code> in B against A"), &comparison.fell),
        (format!("Most <code>{by}</code> in B against A"), &comparison.rose),
        ("Heatmaps that overlap least".to_owned(), &comparison.moved),
    ];
    let mut html = String::new();
    for (title, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        let figures: Vec<String> = list.par_iter().map(|changed| figure(changed, comparison.ranked_by)).collect();
        let _ = writeln!(html, "<h3>{title}</h3>\n<div class=\"gallery changes\">{}</div>", figures.concat());
    }
    match html.is_empty() {
        true => html,
        false => format!("<h2>What changed most</h2>\n{html}"),
    }
}

fn figure(changed: &Changed, by: Quantity) -> String {
    let path = escaped(&shown(&changed.media_path).to_string());
    let side = |letter: &str, heatmap: &MeasuredHeatmap| {
        let value = by.of(heatmap).map_or_else(String::new, |value| format!(" {}", number(Some(value))));
        let picture = image(&changed.media_path, Some(heatmap));
        format!("<figure>{picture}<figcaption title=\"{path}\"><b>{letter}</b>{value}</figcaption></figure>")
    };
    let overlap = changed.overlap.map_or_else(String::new, |overlap| format!(", overlap {overlap:.2}"));
    let file = changed.media_path.file_name().map_or_else(String::new, |name| escaped(&shown(name.as_ref()).to_string()));
    format!(
        "<div class=\"change\"><div class=\"pair\">{}{}</div><p title=\"{path}\">{file}<br><code>{}</code><br>{} at <code>{}</code>{overlap}</p></div>",
        side("A", &changed.a),
        side("B", &changed.b),
        escaped(&changed.sample),
        escaped(&changed.a.series.class),
        escaped(&changed.a.series.layer),
    )
}

/// The mean heatmap of each class and layer, A and B in the same colours, and their difference.
fn means(comparison: &Comparison, names: &PairNames, subject: Subject<'_>) -> String {
    let with_maps = || comparison.series.iter().filter(|(_, paired)| paired.on_image.num > 0);
    if with_maps().next().is_none() {
        return String::new();
    }
    let on = subject.objects.map_or_else(String::new, |field| format!(" (field <code>{}</code>)", escaped(field)));
    let mut html = format!(
        "<h2>Mean heatmaps</h2>\n<p class=\"soft\">Around the object{on}: its box is stretched to the square that is drawn, with half as \
         much of the image again on each side. Without boxes: over the whole image. A and B have the same colours; the third picture is B \
         less A, red where B has more, blue where it has less. Gray is beyond the edge of all images.</p>\n"
    );
    for (series, paired) in with_maps().take(MAX_MEANS) {
        let _ = writeln!(html, "<h3>{}</h3>{}", with_code(&names.name(series)), mean(paired));
    }
    let more = with_maps().count().saturating_sub(MAX_MEANS);
    if more > 0 {
        let _ = writeln!(html, "<p class=\"soft\">{more} more are left out.</p>");
    }
    html
}

fn mean(paired: &PairedSeries) -> String {
    let (crops, has_box) = if paired.on_object.num > 0 { (&paired.on_object, true) } else { (&paired.on_image, false) };
    let means = [crops.mean(0), crops.mean(1)];
    let highest = means.iter().flatten().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let heat = |mean: &[Option<f64>]| colored(mean, |value| jet((value / highest) as f32));
    let difference: Vec<Option<f64>> = means[0].iter().zip(&means[1]).map(|(a, b)| Some((*b)? - (*a)?)).collect();
    let farthest = difference.iter().flatten().map(|value| value.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let difference = colored(&difference, |value| diverging(value / farthest.max(0.02)));
    let share = |which: usize| match crops.share_on_box(which).filter(|_| has_box) {
        Some(share) => format!(" {:.0} % on the box", 100.0 * share),
        None => String::new(),
    };
    let of = match (has_box, crops.num) {
        (true, num) => format!("{num} objects"),
        (false, num) => format!("{num} images"),
    };
    let figure = |picture: String, caption: String| format!("<figure>{picture}<figcaption>{caption}</figcaption></figure>");
    format!(
        "<div class=\"gallery\">{}{}{}</div>",
        figure(framed(&heat(&means[0]), has_box), format!("<b>A</b>{}; {of}", share(0))),
        figure(framed(&heat(&means[1]), has_box), format!("<b>B</b>{}", share(1))),
        figure(framed(&difference, has_box), format!("<b>B - A</b>, at most {farthest:.2}")),
    )
}

fn colored(mean: &[Option<f64>], color: impl Fn(f64) -> [u8; 3]) -> Vec<u8> {
    mean.iter().flat_map(|value| value.map_or([128; 3], &color)).collect()
}

/// White at 0, red at 1, blue at -1.
fn diverging(value: f64) -> [u8; 3] {
    let strength = value.abs().min(1.0);
    let toward = if value > 0.0 { [178.0, 24.0, 43.0] } else { [33.0, 102.0, 172.0] };
    toward.map(|channel: f64| (247.0 + (channel - 247.0) * strength).round() as u8)
}

/// A picture of [`SIDE`] x [`SIDE`] pixels with the box in its middle.
fn framed(pixels: &[u8], has_box: bool) -> String {
    let frame = match has_box {
        true => format!("<rect x=\"{0}\" y=\"{0}\" width=\"{1}\" height=\"{1}\"/>", SIDE / 4, SIDE / 2),
        false => String::new(),
    };
    match encode_rgb(&RgbImage::new(SIDE, SIDE, pixels.to_vec())) {
        Ok(png) => format!(
            "<svg class=\"mean\" viewBox=\"0 0 {SIDE} {SIDE}\"><image width=\"{SIDE}\" height=\"{SIDE}\" \
             href=\"data:image/png;base64,{}\"/>{frame}</svg>",
            BASE64_STANDARD.encode(png)
        ),
        Err(error) => format!("<div class=\"missing\">{}</div>", escaped(&error.to_string())),
    }
}

fn definitions(comparison: &Comparison) -> String {
    let mut html = "<h2>How to read it</h2>\n<ul>\n".to_owned();
    for text in [
        "Differences are B less A, of pairs of heatmaps of the same sample (and detection). Intervals are those of Student's t for pairs; \
         of yes and no (pointing_hit, confidence_increase, correct) the test is McNemar's, exact, and the interval that of Agresti and Min.",
        &format!(
            "A difference is clear where its probability by chance, corrected for all differences of the table (Holm), is at most {:.0} %. One \
             of less than 0.2 standard deviations of the pairs is by little (Cohen).",
            100.0 * IMPROBABLE
        ),
    ] {
        let _ = writeln!(html, "<li>{text}</li>");
    }
    html += "</ul>\n<table><tbody>\n";
    for row in comparison.totals() {
        let _ = writeln!(
            html,
            "<tr><td><code>{}</code></td><td>{}</td></tr>",
            row.quantity.name(),
            escaped(description(row.quantity))
        );
    }
    html + "</tbody></table>\n<p class=\"soft\">docs/measures.md of camflow defines them, with their sources.</p>\n"
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            gate::{Gate, Worse},
            maps::MapPair,
            said::{
                said as sentences,
                tests::{comparison, heatmap},
            },
        },
        *,
    };
    use camflow_measure::MeasuredSample;

    fn subject(dataset: &str) -> Subject<'_> {
        Subject { dataset, against: None, names: ["v1_*", "v2_*"], created: "now", selection: None, objects: None }
    }

    #[test]
    fn the_page_says_what_crossed_and_what_changed() {
        let comparison = comparison(10);
        let gate = Gate::parse(Worse::Drop, "dog:energy_inside=0.1").expect("a gate");
        let judged = [gate.judge(&comparison, false)];
        let html = comparison_page(&comparison, &judged, &sentences(&comparison), subject("street"));
        for part in [
            "<b class=\"low\">crossed</b> <code>energy_inside</code> of <code>dog</code> fell",
            "B looks less at the object",
            "Least <code>energy_inside</code> in B",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // Nobody read the maps.
        assert!(!html.contains("Mean heatmaps") && !html.contains("Agreement of the heatmaps"));
        assert_eq!(html.matches("class=\"change\"").count(), 4);
    }

    #[test]
    fn names_cannot_write_html() {
        let evil = "<script>alert(1)</script>";
        let mut comparison = Comparison::new(Quantity::Measure(camflow_measure::Measure::EnergyInside), 1);
        let pair = super::super::comparison::HeatmapPair {
            a: heatmap(evil, evil, 0.5),
            b: heatmap(evil, evil, 0.25),
            maps: MapPair::Unreadable(evil.into()),
        };
        for id in 0..6 {
            let sample = MeasuredSample { id: format!("{evil}{id}"), media_path: evil.into(), ..MeasuredSample::default() };
            comparison.observe(&sample, std::slice::from_ref(&pair));
        }
        let html = comparison_page(
            &comparison,
            &[],
            &sentences(&comparison),
            Subject { names: [evil, evil], against: Some(evil), ..subject(evil) },
        );
        assert!(!html.contains("alert(1)</script>") && html.contains("&lt;script&gt;"));
    }
}
