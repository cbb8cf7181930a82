//! A comparison for machines: JSON with everything that the page shows, CSV with a line for each pair.

use serde_json::{Map, Value, json};

use super::{
    comparison::{Agreements, Changed, Comparison, HeatmapPair, PairedSeries, Row},
    gate::{Judged, Worse},
    quantity::Quantity,
};
use crate::{distribution::Distribution, findings::Finding, tables::quoted};
use camflow_measure::{MeasuredSample, Series};
use camflow_names::Choice;

/// Of this form of the JSON.
const VERSION: u64 = 1;

/// What a comparison is of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// The dataset of B, where it is another one.
    pub against: Option<&'a str>,
    /// What was typed for A, and for B.
    pub names: [&'a str; 2],
    /// When the comparison was made.
    pub created: &'a str,
    /// Which samples, where not all.
    pub selection: Option<&'a str>,
    /// The label field that says where the objects are.
    pub objects: Option<&'a str>,
}

/// All of it.
pub fn comparison_json(comparison: &Comparison, judged: &[Judged], findings: &[Finding], subject: Subject<'_>) -> Value {
    let rows = comparison.rows();
    let of_series = |(series, paired): (&(Series, Series), &PairedSeries)| {
        let own = rows.iter().filter(|row| row.series == Some(series));
        let center = |which: usize| paired.on_object.share_on_box(which);
        let (a, b) = series;
        json!({
            "class": a.class, "a": described(a), "b": described(b),
            "num_pairs": paired.num_pairs,
            "num_empty_only_a": paired.num_empty[0], "num_empty_only_b": paired.num_empty[1],
            "measures": measures(own),
            "maps": agreements(&paired.maps),
            "around_objects": {"num_objects": paired.on_object.num, "share_on_box": [center(0), center(1)]},
        })
    };
    let unpaired = &comparison.unpaired;
    json!({
        "version": VERSION,
        "camflow": env!("CARGO_PKG_VERSION"),
        "dataset": subject.dataset,
        "against_dataset": subject.against,
        "a": subject.names[0],
        "b": subject.names[1],
        "created": subject.created,
        "object_field": subject.objects,
        "num_samples": comparison.num_samples,
        "num_pairs": comparison.num_pairs,
        "unpaired": {
            "only_a": unpaired.only_a, "only_b": unpaired.only_b, "other_class": unpaired.other_class,
            "samples_only_a": unpaired.samples_only_a, "samples_only_b": unpaired.samples_only_b,
            "samples_several": unpaired.samples_several,
        },
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
        "gates": judged.iter().map(gate).collect::<Vec<_>>(),
        "measures": measures(comparison.totals().iter()),
        "maps": agreements(&comparison.maps),
        "unreadable": comparison.unreadable,
        "series": comparison.series.iter().map(of_series).collect::<Vec<_>>(),
        "ranked_by": comparison.ranked_by.name(),
        "fell": comparison.fell.iter().map(changed).collect::<Vec<_>>(),
        "rose": comparison.rose.iter().map(changed).collect::<Vec<_>>(),
        "moved": comparison.moved.iter().map(changed).collect::<Vec<_>>(),
    })
}

fn described(series: &Series) -> Value {
    json!({"field": series.field, "class": series.class, "layer": series.layer, "method": series.method, "model": series.model})
}

fn measures<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> Value {
    let one = |row: &Row<'_>| {
        let difference = row.difference;
        let value = json!({
            "num": difference.num, "mean_a": difference.means[0], "mean_b": difference.means[1],
            "difference": difference.mean, "interval": difference.interval, "test": difference.test.name(),
            "p": difference.p, "p_holm": row.corrected, "effect": difference.effect,
            "num_higher": difference.num_higher, "num_lower": difference.num_lower,
            "is_clear": row.is_clear(), "is_small": row.is_small(),
        });
        (row.quantity.name().to_owned(), value)
    };
    Value::Object(rows.map(one).collect::<Map<_, _>>())
}

fn agreements(maps: &Agreements) -> Value {
    let of = |distribution: &Distribution| {
        json!({
            "num": distribution.count(), "mean": distribution.mean(), "p10": distribution.quantile(0.1),
            "p50": distribution.median(), "p90": distribution.quantile(0.9),
        })
    };
    json!({
        "num_read": maps.num_read, "num_unreadable": maps.num_unreadable, "num_identical": maps.num_identical,
        "rank_correlation": of(&maps.rank_correlation), "overlap": of(&maps.overlap),
    })
}

fn gate(judged: &Judged) -> Value {
    let gate = &judged.gate;
    json!({
        "measure": gate.quantity.name(), "class": gate.class,
        "worse": if gate.worse == Worse::Drop { "drop" } else { "rise" },
        "limit": gate.limit, "verdict": judged.verdict.map(|verdict| verdict.name()), "fails": judged.fails(),
        "difference": judged.difference.map(|difference| difference.mean),
        "interval": judged.difference.and_then(|difference| difference.interval),
        "text": judged.text(),
    })
}

fn changed(changed: &Changed) -> Value {
    json!({
        "sample": changed.sample, "filepath": changed.media_path.to_string_lossy(), "value": changed.value,
        "class": changed.a.series.class, "field_a": changed.a.series.field, "field_b": changed.b.series.field,
        "detection": changed.a.detection.as_ref().map(|detection| &detection.id), "overlap": changed.overlap,
    })
}

/// The names of the columns of [`pair_rows`].
pub fn pair_header() -> String {
    let measures = Quantity::ALL.iter().map(|quantity| format!("{0}_a,{0}_b", quantity.name()));
    let texts = "sample,filepath,tags,class,detection,field_a,field_b,layer_a,layer_b,method_a,method_b,model_a,model_b";
    format!("{texts},{},rank_correlation_of_maps,overlap", measures.collect::<Vec<_>>().join(","))
}

/// A line for each pair of the sample. What is not known is empty, yes and no are 1 and 0.
pub fn pair_rows(sample: &MeasuredSample, pairs: &[HeatmapPair]) -> String {
    let mut rows = String::new();
    for HeatmapPair { a, b, maps } in pairs {
        let path = sample.media_path.to_string_lossy();
        let detection = a.detection.as_ref().map_or("", |detection| &detection.id);
        let tags = sample.tags.join(";");
        let (of_a, of_b) = (&a.series, &b.series);
        let texts = [
            &sample.id,
            &*path,
            &tags,
            &of_a.class,
            detection,
            &of_a.field,
            &of_b.field,
            &of_a.layer,
            &of_b.layer,
            &of_a.method,
            &of_b.method,
            &of_a.model,
            &of_b.model,
        ];
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let numbers = Quantity::ALL.iter().flat_map(|quantity| [quantity.of(a), quantity.of(b)]);
        let agreement = maps.agreement();
        let agreement = [agreement.and_then(|maps| maps.rank_correlation), agreement.and_then(|maps| maps.overlap)];
        let cells: Vec<String> = texts.map(quoted).into_iter().chain(numbers.chain(agreement).map(number)).collect();
        rows += &cells.join(",");
        rows.push('\n');
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{super::said::tests::heatmap, *};
    use crate::compare::maps::MapPair;

    #[test]
    fn a_line_has_as_many_cells_as_the_head() {
        let sample = MeasuredSample { id: "1".into(), tags: vec!["a,b".into()], ..MeasuredSample::default() };
        let pair = HeatmapPair { a: heatmap("a", "dog", 0.5), b: heatmap("b", "dog", 0.25), maps: MapPair::Unread };
        let rows = pair_rows(&sample, &[pair]);
        assert!(rows.starts_with("1,,\"a,b\",dog,,a,b,layer4,layer4,gradcam,gradcam,a,b,0.5,0.25,"), "{rows}");
        assert_eq!(rows.trim_end().replace("\"a,b\"", "").matches(',').count(), pair_header().matches(',').count());
    }
}
