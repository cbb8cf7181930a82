"""Heatmaps of another model, class or target are never replaced without a word."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest

FIELD = "light_grad_layer_1"


@pytest.fixture
def other_model(tiny_model, tmp_path) -> Path:
    """The same network in another file."""
    path = tmp_path / "other.pt2"
    # The last bytes of a ZIP file are the length of a comment and the comment.
    path.write_bytes(tiny_model.read_bytes()[:-2] + (1).to_bytes(2, "little") + b"x")
    return path


@pytest.fixture
def annotate(camflow, tiny_model, tmp_path):
    def run(dataset, *flags, code=0, model=tiny_model, classes="light"):
        arguments = ["annotate", "--dataset", dataset.name, "--model", model, "--class", classes, "--device", "cpu"]
        done = camflow(*arguments, "--format", "json", "--out", tmp_path / "maps", *flags, code=code)
        dataset.reload()
        return done

    return run


def said(done, event="notice") -> str:
    return "\n".join(e["message"] for e in done.events if e["event"] == event)


def counts(done) -> tuple:
    last = next(e for e in done.events if e["event"] in ("run_finished", "dry_run_finished"))
    return last.get("num_committed", last.get("num_stale")), last["skipped"]


def test_another_model_is_refused_and_replaces_where_it_may(tiny_dataset, annotate, other_model, camflow, tmp_path):
    dataset = tiny_dataset(3)
    assert counts(annotate(dataset))[0] == 3
    before = dataset.values(f"{FIELD}.fingerprint")
    for flags in ((), ("--dry-run",), ("--limit", 1)):
        refused = said(annotate(dataset, *flags, model=other_model, code=2), "error")
        assert f"field `{FIELD}` holds 3 heatmaps from another file of model `" in refused, refused
        assert "hint: " in refused and "`--field`" in refused and "`--replace`" in refused
    assert dataset.values(f"{FIELD}.fingerprint") == before
    # A field of its own by the model's name.
    field = "{model}_{class}_{layer}"
    annotate(dataset, "--field", field, model=other_model)
    assert [name for name in dataset.get_field_schema() if name.endswith("_light_1")]
    # A job that takes whatever model it finds.
    file = tmp_path / "job.toml"
    file.write_text(
        f"version = 1\n[[job]]\nname = 'a'\ndataset = '{dataset.name}'\nmodel = '{other_model}'\nclass = 'light'\n"
        "out = 'maps'\ndevice = 'cpu'\nreplace = true\n"
    )
    done = camflow("run", file, "--format", "json")
    assert counts(done)[0] == 3 and "are replaced: field" in said(done)
    done = camflow("run", file, "--format", "json")
    assert counts(done) == (0, {"up to date": 3}) and "replaced" not in said(done)


def test_another_target_is_refused_and_another_form_is_not(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    annotate(dataset)
    for flags, words in (
        (("--target", "predicted"), "of target `labels:ground_truth`, this run's is `predicted`"),
        (("--aug-smooth",), "made with `aug-smooth = false`, this run has `true`"),
        (("--size", "layer"), "made with `size = input`, this run has `layer`"),
    ):
        refused = said(annotate(dataset, *flags, code=2), "error")
        assert words in refused, refused
    annotate(dataset, "--field", "cam")
    refused = said(annotate(dataset, "--field", "cam", classes="middle", code=2), "error")
    assert "field `cam` holds 2 heatmaps of class `light`, this run's is `middle`" in refused
    refused = said(annotate(dataset, "--field", "cam", "--method", "layercam", code=2), "error")
    assert "by gradcam, this run's are by layercam" in refused
    # The same map in another form, measured otherwise, or with another value in the masks is the same.
    for flags in (("--npy", "f16"), ("--store", "inline"), ("--exact",), ("--faithfulness",)):
        done = annotate(dataset, *flags)
        assert counts(done)[0] == 2 and f"are made anew: 2 heatmaps of field `{FIELD}`" in said(done), flags
    assert "made anew" not in said(annotate(dataset, *flags))
    dataset.default_mask_targets = {0: "background", 2: "middle", 1: "light", 3: "never"}
    dataset.save()
    done = annotate(dataset)
    assert counts(done)[0] == 2 and "are made anew" in said(done)
    assert counts(annotate(dataset, "--target", "predicted", "--overwrite"))[0] == 2


def test_heatmaps_of_other_programs_are_no_different(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    sample = dataset.first()
    sample[FIELD] = fo.Heatmap(map=np.zeros((4, 4), dtype=np.float32))
    sample.save()
    refused = said(annotate(dataset, code=2), "error")
    assert f"field `{FIELD}` holds 1 heatmap of another program" in refused
    assert dataset.first()[FIELD].map is not None
    assert counts(annotate(dataset, "--replace"))[0] == 2


def test_the_same_heatmaps_in_two_fields_are_told(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    assert "same heatmaps" not in said(annotate(dataset))
    # A method more does not rename what is there.
    done = annotate(dataset, "--method", "gradcam,layercam")
    assert "same heatmaps" not in said(done) and counts(done)[0] == 2
    dataset.reload()
    assert {FIELD, "light_layercam_layer_1"} == set(dataset.get_field_schema(embedded_doc_type=fo.Heatmap))
    flags = ("--method", "gradcam,layercam", "--field", "{class}_{method}")
    told = said(annotate(dataset, *flags))
    assert f"`light_gradcam`, `light_layercam` will hold the same heatmaps as `{FIELD}`, `light_layercam_layer_1`" in told
    assert "same heatmaps" not in said(annotate(dataset, *flags))


def test_a_worker_refuses_too(tiny_dataset, annotate, other_model, binary, tmp_path):
    dataset = tiny_dataset(2)
    annotate(dataset)
    command = [binary, "worker", "annotate", "--dataset", dataset.name, "--model", other_model, "--class", "light"]
    command += ["--device", "cpu", "--out", tmp_path / "maps"]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, input="")
    answer = json.loads(done.stdout)
    assert done.returncode == 2 and answer["event"] == "not_ready" and "would replace other heatmaps" in answer["error"]


def test_selections_that_are_slips_are_errors(tiny_dataset, annotate, tmp_path):
    dataset = tiny_dataset(3, tags=lambda n: ["night, two"] if n else ["day"])
    refused = said(annotate(dataset, "--tags", "nigth", code=2), "error")
    assert "no sample has the tag `nigth`" in refused and "hint: the tags are `night, two`, `day`" in refused
    assert counts(annotate(dataset, "--tags", "night, two", "--dry-run"))[0] == 2
    assert counts(annotate(dataset, "--tags", "day,nigth", "--dry-run"))[0] == 1
    assert "no sample would be taken" in annotate(dataset, "--limit", 0, code=2).stderr
    (tmp_path / "ids").write_text("6b03690476852489c1dd7256\n")
    refused = said(annotate(dataset, "--ids", tmp_path / "ids", code=2), "error")
    assert "the id `6b03690476852489c1dd7256` is not in it" in refused and "hint: " in refused
    (tmp_path / "ids").write_text("")
    assert counts(annotate(dataset, "--ids", tmp_path / "ids")) == (0, {})
