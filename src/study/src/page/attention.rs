//! Tables of explained classes by labelled classes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{escaped, with_code};
use crate::{AttentionCell, AttentionTable, Study, attention::is_own, findings::ENOUGH};
use camflow_measure::Series;

/// Rows and columns of a table; what is beyond is summed up.
const MAX_ROWS: usize = 40;
const MAX_COLUMNS: usize = 16;

/// Tables of a page; the JSON has all.
const MAX_TABLES: usize = 16;

/// What the heatmaps of one layer, by one method and model, lie on.
type Rows<'a> = BTreeMap<&'a Series, &'a AttentionTable>;

/// For each field, layer, method and model a table: on which labelled class the heatmaps of each explained class lie.
pub(super) fn attention(study: &Study) -> String {
    let mut tables: BTreeMap<(&str, &str, &str, &str), Rows<'_>> = BTreeMap::new();
    for (on, of_field) in &study.attention {
        for (series, table) in of_field.iter().filter(|(_, table)| table.num_heatmaps > 0) {
            tables.entry((on, &series.model, &series.method, &series.layer)).or_default().insert(series, table);
        }
    }
    if tables.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<h2>What else the heatmaps lie on</h2>\n<p class=\"soft\">A row is an explained class, a column a labelled one. Of the \
         images that have the labelled class: the mean share of the heatmap that lies on it, how many times more than its \
         area alone would give, and the number of images. <span class=\"over\">Orange</span> is more than its area, \
         <span class=\"under\">blue</span> is less; what is framed is the explained class itself, and what has fewer than \
         {ENOUGH} images has no colour.</p>\n"
    );
    let num_left_out = tables.len().saturating_sub(MAX_TABLES);
    for ((on, model, method, layer), rows) in tables.iter().take(MAX_TABLES) {
        let text = format!("On `{on}`: heatmaps at `{layer}` by {method} of {model}");
        let _ = writeln!(html, "<h3>{}</h3>\n{}", with_code(&text), table(rows));
    }
    if num_left_out > 0 {
        let _ = writeln!(html, "<p class=\"soft\">{num_left_out} more tables are in the JSON.</p>");
    }
    html
}

/// The labelled classes that are shown, those with the most energy first and what has no class last, and how many are not.
fn columns<'a>(rows: &Rows<'a>) -> (Vec<&'a Option<String>>, usize) {
    let mut totals: BTreeMap<&Option<String>, f64> = BTreeMap::new();
    for (label, cell) in rows.values().flat_map(|table| &table.labels) {
        *totals.entry(label).or_default() += cell.total();
    }
    let mut columns: Vec<(&Option<String>, f64)> = totals.into_iter().collect();
    columns.sort_by(|(one, a), (other, b)| one.is_none().cmp(&other.is_none()).then(b.total_cmp(a)));
    let unlabelled = columns.pop_if(|(label, _)| label.is_none());
    let num_left_out = columns.len().saturating_sub(MAX_COLUMNS);
    columns.truncate(MAX_COLUMNS);
    (columns.into_iter().chain(unlabelled).map(|(label, _)| label).collect(), num_left_out)
}

fn table(rows: &Rows<'_>) -> String {
    let (columns, num_left_out) = columns(rows);
    let has_others = num_left_out > 0 || rows.values().any(|table| table.others.num_heatmaps > 0);
    let mut html =
        "<div class=\"wide\"><table class=\"attention\"><thead><tr><th>heatmaps of</th><th class=\"number\">images</th>"
            .to_owned();
    for label in &columns {
        let head = label.as_ref().map_or_else(|| "no class".to_owned(), |label| format!("<code>{}</code>", escaped(label)));
        let _ = write!(html, "<th class=\"number\">{head}</th>");
    }
    if has_others {
        html += "<th class=\"number\">all others</th>";
    }
    html += "</tr></thead><tbody>\n";
    let mut rest = AttentionTable::default();
    let mut num_rest = 0;
    for (index, (series, table)) in rows.iter().enumerate() {
        if index < MAX_ROWS {
            let name = format!("<code title=\"{}\">{}</code>", escaped(&series.field), escaped(&series.class));
            html += &row(&name, table, &columns, has_others, |label| is_own(label, series));
        } else {
            num_rest += 1;
            rest.merge(table);
        }
    }
    if num_rest > 0 {
        html += &row(&format!("{num_rest} more classes together"), &rest, &columns, has_others, |_| false);
    }
    html += "</tbody></table></div>\n";
    if has_others {
        html += "<p class=\"soft\"><i>All others</i> are the labelled classes without a column, together and over all images of the row; the JSON \
                 has them one by one.</p>\n";
    }
    html
}

fn row(
    name: &str,
    table: &AttentionTable,
    columns: &[&Option<String>],
    has_others: bool,
    is_own: impl Fn(Option<&str>) -> bool,
) -> String {
    let mut html = format!("<tr><td>{name}</td><td class=\"number soft\">{}</td>", table.num_heatmaps);
    for label in columns {
        html += &table.labels.get(*label).map_or_else(|| "<td></td>".to_owned(), |cell| of_cell(cell, is_own(label.as_deref())));
    }
    if has_others {
        let shown: BTreeSet<&Option<String>> = columns.iter().copied().collect();
        let mut others = table.others.clone();
        table.labels.iter().filter(|(label, _)| !shown.contains(label)).for_each(|(_, cell)| others.merge(cell));
        html += &match others.means_over(table.num_heatmaps).filter(|_| others.num_heatmaps > 0) {
            Some((share, area)) => cell(share, area, table.num_heatmaps, "others"),
            None => "<td></td>".to_owned(),
        };
    }
    html + "</tr>\n"
}

fn of_cell(of_label: &AttentionCell, is_own: bool) -> String {
    match (of_label.mean_share(), of_label.mean_area()) {
        (Some(share), Some(area)) => cell(share, area, of_label.num_heatmaps, if is_own { "own" } else { "" }),
        _ => "<td></td>".to_owned(),
    }
}

/// A share of the heatmap beside that of the area, coloured by their ratio: from twice as much, or half, on in full.
fn cell(share: f64, area: f64, count: u64, class: &str) -> String {
    let ratio = share / area;
    let strength = if count < ENOUGH { 0.0 } else { ratio.max(1e-3).log2().abs().min(1.0) };
    let side = if ratio >= 1.0 { "over" } else { "under" };
    let colour = if strength > 0.0 { format!(" style=\"--strength:{:.0}%\"", 45.0 * strength) } else { String::new() };
    let times = if ratio < 9.95 { format!("{ratio:.1}") } else { format!("{ratio:.0}") };
    format!(
        "<td class=\"number {side} {class}\"{colour} title=\"{:.1} % of the heatmap on {:.1} % of the area, in {count} images\">{}\
         <div class=\"soft\">×{times} · {count}</div></td>",
        100.0 * share,
        100.0 * area,
        percent(share),
    )
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent > 0.0 && percent < 0.5 => "&lt;1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use camflow_measure::Attention;

    fn study(labels: usize, classes: usize) -> Study {
        let mut study = Study::new(1);
        for class in 0..classes {
            for id in 0..6 {
                let mut sample = sample(id, &[], &[2.0]);
                let heatmap = &mut sample.heatmaps[0];
                heatmap.series.class = format!("class {class}");
                heatmap.attention_on = Some("<scene>".into());
                let one = |label: usize| Attention {
                    label: Some(format!("<label> {label}")),
                    share: Some(0.5 / (label + 1) as f64),
                    area: 0.25,
                };
                heatmap.attention = (0..labels).map(one).collect();
                heatmap.attention.push(Attention { label: None, share: Some(0.1), area: 0.3 });
                study.observe(&sample);
            }
        }
        study
    }

    #[test]
    fn the_table_has_rows_and_columns_and_escapes_names() {
        let html = attention(&study(2, 2));
        assert_eq!(html.matches("<tr>").count(), 3, "{html}");
        assert!(html.contains("50 %") && html.contains("×2.0 · 6") && html.contains("no class"), "{html}");
        assert!(!html.contains("<label>") && !html.contains("<scene>") && !html.contains("all others"), "{html}");
        assert!(attention(&Study::new(1)).is_empty());
    }

    #[test]
    fn what_is_too_much_is_summed_up_and_said() {
        let html = attention(&study(MAX_COLUMNS + 5, MAX_ROWS + 3));
        assert!(html.contains("all others") && html.contains("3 more classes together"), "{html}");
        assert_eq!(html.matches("<tr>").count(), MAX_ROWS + 2);
        // 0.5 / 17 + ... + 0.5 / 21 over five times a quarter of the area.
        let rest: f64 = (MAX_COLUMNS..MAX_COLUMNS + 5).map(|label| 0.5 / (label + 1) as f64).sum();
        assert!(html.contains(&format!("{:.1} % of the heatmap on 125.0 % of the area", 100.0 * rest)), "{html}");
    }
}
