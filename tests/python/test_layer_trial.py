"""`--layers auto`: of the last layers the one whose heatmaps are most faithful, as `--faithfulness` measures it."""

import re
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest

NETWORK = Path(__file__).with_name("three_layers.py")


@pytest.fixture(scope="module")
def network(export):
    """The archive of a network with three layers."""
    return export(f"{NETWORK}:network", inputs=(NETWORK,))


@pytest.fixture
def annotate(camflow, network, tmp_path):
    def run(dataset, *flags, code=0):
        return camflow(
            *("annotate", "--dataset", dataset.name, "--class", "light", "--model", network, "--device", "cpu"),
            *("--out", tmp_path / "maps", "--exact", "--format", "json", *flags),
            code=code,
        )

    return run


def gains(dataset, layer) -> list[float]:
    """Insertion AUC less deletion AUC of each heatmap; of one without attention 0."""
    found = [sample[f"measured_{layer}"] for sample in dataset]
    return [(heat.insertion_auc or 0.0) - (heat.deletion_auc or 0.0) for heat in found]


def told(done) -> dict[str, float]:
    """The figures of the notice, by layer."""
    figures = re.search(r"insertion less deletion AUC: ([^)]*)\)", done.stdout + done.stderr)[1]
    return {layer: float(figure) for layer, figure in re.findall(r"`(\d)` (-?[\d.]+)", figures)}


def test_the_most_faithful_layer_is_explained_as_if_it_had_been_named(tiny_dataset, annotate):
    dataset = tiny_dataset(11)
    annotate(dataset, "--layers", "1-3", "--faithfulness", "--field", "measured_{layer}", "--limit", "8")
    dataset.reload()
    wanted = {str(layer): float(np.mean(gains(dataset[:8], layer))) for layer in (1, 2, 3)}
    best = max(wanted, key=wanted.get)

    done = annotate(dataset, "--layers", "auto")
    figures = told(done)
    assert figures.keys() == wanted.keys() and all(abs(figures[layer] - wanted[layer]) < 1e-3 for layer in wanted)
    assert f"layer `{best}` (" in done.stdout + done.stderr and "on 8 images" in done.stdout + done.stderr
    dataset.reload()
    fields = [name for name in dataset.get_field_schema() if name.startswith("light_grad_layer")]
    assert fields == [f"light_grad_layer_{best}"]
    assert len(dataset.exists(fields[0])) == 11 and dataset.first()[fields[0]].insertion_auc is None

    again = annotate(dataset, "--layers", best)
    counts = next(event for event in again.events if event["event"] == "run_finished")
    assert counts["skipped"] == {"up to date": 11}, "the name alone does not make other heatmaps"


def test_samples_without_the_class_are_passed_over(tiny_dataset, annotate):
    dataset = tiny_dataset(12)
    for sample in list(dataset)[:10]:
        sample["ground_truth"] = fo.Segmentation(mask=np.zeros((30, 40), np.uint8))
        sample.save()
    done = annotate(dataset, "--layers", "auto")
    assert "on 2 images" in done.stdout + done.stderr


def test_what_cannot_be_chosen_is_an_error(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    for flags, words in (
        (("--layers", "auto,2"), "names others beside it"),
        (("--layers", "auto", "--fuse-layers"), "makes one map of several"),
        (("--layers", "auto", "--method", "fullgrad"), "the methods have none"),
    ):
        assert words in annotate(dataset, *flags, code=2).stderr
    for sample in dataset:
        sample["ground_truth"] = fo.Segmentation(mask=np.zeros((30, 40), np.uint8))
        sample.save()
    assert "no layer can be chosen" in annotate(dataset, "--layers", "auto", code=2).stderr


def test_images_without_a_dataset_choose_likewise(tiny_dataset, camflow, network, tmp_path):
    paths = [sample.filepath for sample in tiny_dataset(3)]
    done = camflow(
        *("explain", *paths, "--model", network, "--layers", "auto", "--out", tmp_path / "maps", "--device", "cpu"),
        *("--format", "json", "--exact"),
    )
    figures = told(done)
    layers = {event["layer"] for event in done.events if event["event"] == "heatmap"}
    assert layers == {max(figures, key=figures.get)} and "on 3 images" in done.stdout + done.stderr
