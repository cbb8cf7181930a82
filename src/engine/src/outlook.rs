//! What the files of an image take on the disk, as far as the model says it before one is read.

use super::JobSpec;
use camflow_media::Preprocess;
use camflow_pipeline::{NpyFormat, Store};
use camflow_torch::{
    explain::{Column, HeatmapSize},
    program::ModelMetadata,
};

/// A disk gives space in blocks of so much.
const BLOCK: u64 = 4096;

/// Beside the numbers: the header of a `.npy`; chunks and what does not get smaller of a PNG.
const REST: u64 = 1024;

/// Bytes that the files of one class of an image take at most; `None` where the image's size decides.
pub(crate) fn most_bytes(spec: &JobSpec, metadata: &ModelMetadata, columns: &[Column]) -> Option<u64> {
    let size = fixed_size(&metadata.preprocess).filter(|_| spec.size != HeatmapSize::Image)?;
    // How many slices there are, the image says.
    if spec.cam().slices.slicing().is_some() {
        return None;
    }
    let each = |column: &Column| {
        let (num_pixels, num_values) = (size.0 * size.1, layer_values(metadata, column, size));
        let npy = match spec.npy {
            NpyFormat::None => None,
            NpyFormat::Layer => Some(4 * num_values),
            NpyFormat::F32 => Some(4 * num_pixels),
            NpyFormat::F16 => Some(2 * num_pixels),
        };
        // A row of a PNG has one byte more.
        let png = (spec.store == Store::Path).then_some(num_pixels + size.0);
        [npy, png].into_iter().flatten().map(|bytes| (bytes + REST).next_multiple_of(BLOCK)).sum::<u64>()
    };
    Some(columns.iter().map(each).sum())
}

/// Height and width of the model's input, if they are the same for all images.
fn fixed_size(preprocess: &Preprocess) -> Option<(u64, u64)> {
    // Wide, high and square, small and large.
    let sizes = [(64, 64), (100, 1000), (1000, 100), (3000, 4000)].map(|(height, width)| preprocess.output_size(height, width));
    let (height, width) = sizes[0];
    sizes.iter().all(|size| *size == sizes[0]).then_some((height as u64, width as u64))
}

/// Values of a layer's map at this input size: at most as many as pixels, where the model does not say.
fn layer_values(metadata: &ModelMetadata, column: &Column, (height, width): (u64, u64)) -> u64 {
    let num_pixels = height * width;
    let of_layer = |path: &str| {
        let layer = metadata.layers.iter().find(|layer| layer.path == path)?;
        let [.., rows, columns] = metadata.input.example[..] else { return None };
        let in_example = u64::try_from(rows * columns).ok()?.max(1);
        // As many more as this input is larger.
        Some((layer.num_places()? * num_pixels).div_ceil(in_example))
    };
    let largest = column.path.split(" + ").map(of_layer).collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
    largest.map_or(num_pixels, |values| values.min(num_pixels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_torch::explain::Method;

    fn metadata(preprocess: &serde_json::Value) -> ModelMetadata {
        let content = serde_json::json!({
            "camflow": 1, "name": "m", "task": "classification",
            "input": {"name": "x", "dtype": "float32", "example": [2, 3, 64, 64], "dynamic": "bhw"},
            "preprocess": preprocess,
            "layers": [{"path": "a", "layout": "nchw", "shape": [2, 8, 16, 16]}, {"path": "t", "layout": "tokens", "shape": [2, 65, 4]}],
        });
        serde_json::from_value(content).expect("metadata")
    }

    #[test]
    fn files_are_known_where_all_inputs_have_one_size() {
        let crop = serde_json::json!([{"op": "resize_smaller", "size": 80}, {"op": "center_crop", "height": 64, "width": 128}]);
        let column = |path: &str| Column { method: Method::Gradcam, label: "1".into(), path: path.into(), layers: Vec::new() };
        let most = |spec: &JobSpec, path: &str| most_bytes(spec, &metadata(&crop), &[column(path)]);
        let spec = JobSpec::default();
        // 64 x 128 pixels and rows; 16 x 32 floats, 130 floats.
        assert_eq!(most(&spec, "a"), Some(12_288 + 4096));
        assert_eq!(most(&spec, "t"), Some(12_288 + 4096));
        assert_eq!(most(&spec, "a + elsewhere"), Some(12_288 + 36_864));
        let whole = JobSpec { npy: NpyFormat::F32, ..spec.clone() };
        assert_eq!(most(&whole, "a"), Some(12_288 + 36_864));
        let inline = JobSpec { npy: NpyFormat::None, store: Store::Inline, ..spec.clone() };
        assert_eq!(most(&inline, "a"), Some(0));
        assert_eq!(most(&JobSpec { size: HeatmapSize::Image, ..spec.clone() }, "a"), None);
        let slices = JobSpec { slice_height: std::num::NonZeroUsize::new(64), ..spec.clone() };
        assert_eq!(most(&slices, "a"), None);
        let free = serde_json::json!([{"op": "resize_smaller", "size": 80}]);
        assert_eq!(most_bytes(&spec, &metadata(&free), &[column("a")]), None);
    }
}
