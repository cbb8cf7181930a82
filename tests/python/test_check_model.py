"""`camflow check-model`: its figures beside SciPy, scikit-image and PyTorch, and whether its verdicts tell good heatmaps from bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import skimage.data
import skimage.metrics
from conftest import LAB
from PIL import Image

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A cat and a cup of coffee."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def check(camflow, model, images, folder: Path, *flags, code: int = 0):
    """What it says, and its figures."""
    named = folder / "numbers.json"
    done = camflow("check-model", model, *images, "--device", "cpu", "--json", named, *flags, code=code)
    return done, json.loads(named.read_text())


def verdicts(numbers: dict, method: str) -> dict[str, str]:
    [column] = [column for column in numbers["columns"] if column["method"] == method]
    return {name: found["verdict"] for name, found in column["checks"].items()}


@pytest.fixture(scope="module")
def trained(camflow, export, photos, tmp_path_factory):
    """A trained classifier, checked: what was said, the figures, and the folder of maps."""
    script = LAB / "efficientnet_lite0.py"
    model = export(f"{script}:efficientnet_lite0", inputs=(script,))
    folder = tmp_path_factory.mktemp("checked")
    flags = ("--method", "gradcam,eigencam,randomcam", "--methods", "gradcam,layercam,eigencam", "--steps", 3, "--draws", 1)
    done, numbers = check(camflow, model, photos, folder, *flags, "--out", folder / "maps")
    return done, numbers, folder / "maps"


def test_a_good_method_is_told_from_bad_ones(trained):
    done, numbers, _ = trained
    good, activations, random = (verdicts(numbers, method) for method in ("gradcam", "eigencam", "randomcam"))
    assert good["randomisation"] == good["output"] == good["flip"] == good["repeat"] == "passed"
    # Those that do not look at the output stay what they are when it is randomised, and say so.
    assert activations["output"] == random["output"] == "weak"
    assert "output weak: the heatmaps stay as they are" in done.stdout
    # Random weights of channels agree with no other method.
    agreement = {column["method"]: column["checks"]["agreement"]["figure"] for column in numbers["columns"]}
    assert agreement["gradcam"] > 0.5 > agreement["randomcam"]
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if line.startswith("  "))


def test_its_figures_are_those_of_scipy_and_scikit_image(trained):
    """Which Quantus takes; `scripts/lab/sanity.py` compares with that itself."""
    _, numbers, folder = trained
    assert [image["class"] for image in numbers["images"]] == ["tiger cat", "espresso"]
    names = {f"randomised_{step + 1}": ("cascading", step) for step in range(len(numbers["steps"]))}
    names |= {"mirrored": ("flip", None), "shifted_right": ("shifts", 0), "shifted_down": ("shifts", 1)}
    shift, compared = numbers["shift"], 0
    assert shift == 8
    for image in numbers["images"]:
        for column, heatmap in zip(numbers["columns"], image["heatmaps"], strict=True):
            stem = f"{image['name']}.{image['class']}.{column['method']}.layer_{column['layer']}".replace(" ", "_")
            maps = {file.stem[len(stem) + 1 :]: np.load(file).astype(np.float64) for file in folder.glob(f"{stem}.*.npy")}
            for name, (kind, place) in names.items():
                found = heatmap[kind] if place is None else heatmap[kind][place]
                a, b = maps["original"], maps[name]
                if "shifted" in name:
                    shown = (
                        slice(-shift if name == "shifted_down" else None),
                        slice(-shift if name == "shifted_right" else None),
                    )
                    a, b = a[shown], b[shown]
                assert found["is_constant"] == (b.std() == 0)
                if found["is_constant"]:
                    assert found["spearman"] is found["pearson"] is None
                    continue
                assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(a.ravel(), b.ravel())[0], abs=1e-6)
                assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(a.ravel(), b.ravel())[0], abs=1e-6)
                reach = max(a.max(), b.max()) - min(a.min(), b.min())
                wanted = skimage.metrics.structural_similarity(a, b, data_range=reach)
                assert found["ssim"] == pytest.approx(wanted, abs=1e-6)
                compared += 1
            moved = np.linalg.norm(maps["original"] - maps["noise"]) / np.linalg.norm(maps["original"])
            assert heatmap["noise"] == [pytest.approx(moved, abs=1e-6)] and heatmap["avg_sensitivity"] == heatmap["noise"][0]
            last = maps[f"randomised_{len(numbers['steps'])}"]
            entropies = [scipy.stats.entropy(np.histogram(one, bins=100)[0]) for one in (maps["original"], last)]
            assert [heatmap["entropy"], heatmap["entropy_randomised"]] == pytest.approx(entropies, abs=1e-6)
    assert compared > 20
    sheet = Image.open(folder / "coffee.espresso.sheet.png")
    assert sheet.width == 12 + 6 * (480 + 12)


def test_a_heatmap_that_ignores_the_model_fails(camflow, export, photos, tmp_path):
    file = HERE / "prior_classifier.py"
    prior = export(f"{file}:prior", inputs=(file,))
    flags = ("--method", "eigencam", "--layers", "layer1", "--class", "cat", "--draws", 0)
    done, numbers = check(camflow, prior, photos, tmp_path, *flags)
    found = verdicts(numbers, "eigencam")
    assert found["randomisation"] == "failed" and found["output"] == "weak" and found["noise"] is None
    assert "randomisation failed: the heatmaps hardly change" in done.stdout
    assert "note: noise not made: no draws of noise are asked for" in done.stdout
    assert [step["modules"] for step in numbers["steps"]] == [["head"]]
    # The same with `--strict` is no success, unless the threshold is another one.
    check(camflow, prior, photos, tmp_path, *flags, "--strict", code=1)
    check(camflow, prior, photos, tmp_path, *flags, "--strict", "--threshold", "randomisation=1")


def test_what_was_not_learnt_cannot_be_randomised_and_tied_weights_are_once(camflow, export, photos, tmp_path):
    file = HERE / "prior_classifier.py"
    done, numbers = check(camflow, export(f"{file}:unlearnt", inputs=(file,)), photos[:1], tmp_path, "--draws", 1)
    assert numbers["steps"] == [] and verdicts(numbers, "gradcam")["randomisation"] is None
    assert "note: randomisation not made: the output is computed without weights" in done.stdout
    _, numbers = check(camflow, export(f"{file}:tied", inputs=(file,)), photos[:1], tmp_path, "--draws", 1, "--layers", "layer2")
    assert [(step["modules"], step["num_weights"]) for step in numbers["steps"]] == [
        (["head"], 8),
        # With the weights of both.
        (["layer2"], 3 * 3 * 9 + 3),
        (["layer1"], 3),
    ]


def drawn(name: str, values: np.ndarray, seed: int) -> np.ndarray:
    """What takes a parameter's place, as src/torch/src/program/randomise.rs says it."""

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    key = mix(np.array([key ^ seed], np.uint64))
    numbers = np.arange(1, 2 * values.size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    uniform = ((mix(key + numbers) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    normal = np.sqrt(-2 * np.log(uniform[::2])) * np.cos(2 * np.pi * uniform[1::2])
    values = values.astype(np.float64)
    return (values.mean() + values.std() * normal).astype(np.float32).reshape(values.shape)


def test_the_randomised_models_heatmaps_are_pytorchs(camflow, classifier, tmp_path):
    import tiny_classifier
    from pytorch_grad_cam import HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    import torch

    pixels = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "input.npy", pixels.numpy())
    flags = ("--class", "dog", "--method", "hirescam", "--layers", "layer2", "--steps", 0, "--draws", 1, "--exact", "--seed", 3)
    _, numbers = check(camflow, classifier, [tmp_path / "input.npy"], tmp_path, *flags, "--out", tmp_path / "maps")
    assert [step["modules"] for step in numbers["steps"]] == [["head"], ["layer2.0"], ["layer1.0"]]

    model = tiny_classifier.classifier()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    distances = []

    def compare(name: str) -> None:
        with HiResCAM(model=model, target_layers=[model.layer2]) as cam:
            wanted = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(1)])[0]
        found = np.load(tmp_path / "maps" / f"input.0.dog.hirescam.layer_layer2.{name}.npy")
        assert wanted.std() > 0.05, name
        distances.append(np.abs(found - wanted).max())

    compare("original")
    for number, step in enumerate(numbers["steps"]):
        for name, values in model.named_parameters():
            if name.rpartition(".")[0] in step["modules"]:
                values.data = torch.from_numpy(drawn(name, own[name].numpy(), 3))
        compare(f"randomised_{number + 1}")
    assert max(distances) <= 1e-5, distances


def test_segmentation_keeps_its_pixels_and_the_same_seed_gives_the_same(camflow, tiny_model, tmp_path):
    levels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    flags = ("--independent", "--draws", 2, "--class", "light,middle")
    first, numbers = check(camflow, tiny_model, [tmp_path / "a.png"], tmp_path, *flags)
    assert {image["class"] for image in numbers["images"]} <= {"light", "middle"} and numbers["images"]
    for image in numbers["images"]:
        [heatmap] = image["heatmaps"]
        # The pixels that count are there whatever the other model decides.
        assert len(heatmap["cascading"]) == len(heatmap["independent"]) == len(numbers["steps"])
        assert not any(one["missing"] for one in heatmap["cascading"] + heatmap["independent"])
        assert heatmap["cascading"][0] == heatmap["independent"][0]
        assert heatmap["repeat"] == 0
    second, again = check(camflow, tiny_model, [tmp_path / "a.png"], tmp_path, *flags)
    assert again == numbers and second.stdout == first.stdout
    _, other = check(camflow, tiny_model, [tmp_path / "a.png"], tmp_path, *flags, "--seed", 1)
    assert other["images"] != numbers["images"]


def test_images_of_a_dataset_and_from_python(camflow, binary, database, tiny_dataset, tiny_model, tmp_path, monkeypatch):
    import camflow as package

    dataset = tiny_dataset(5)
    env = {"FIFTYONE_DATABASE_URI": database}
    flags = ("--samples", 2, "--steps", 1, "--draws", 1, "--device", "cpu")

    def run(*more):
        camflow("check-model", tiny_model, "--dataset", dataset.name, *flags, "--json", tmp_path / "a.json", *more, env=env)
        return [Path(image["image"]).name for image in json.loads((tmp_path / "a.json").read_text())["images"]]

    chosen = run()
    assert len(chosen) == 2 and run() == chosen
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    made = package.check_model(tiny_model, dataset, samples=2, steps=1, draws=1, device="cpu")
    assert [Path(image["image"]).name for image in made.numbers["images"]] == chosen
    assert made.verdict in ("passed", "weak", "failed") and made.columns[0]["method"] == "gradcam"
    assert "randomisation" in str(made)
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    one = package.check_model(tiny_model, picture, steps=1, draws=1, device="cpu")
    assert len(one.numbers["images"]) == 1
    with pytest.raises(package.CamflowError, match="layer"):
        package.check_model(tiny_model, picture, layers="9")


def test_a_damaged_image_costs_itself_alone(camflow, tiny_model, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    flags = ("--steps", 1, "--draws", 1)
    done, numbers = check(camflow, tiny_model, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path, *flags, code=1)
    assert len(numbers["images"]) == 1 and "b.png" in done.stderr
    done = camflow("check-model", tiny_model, tmp_path / "b.png", "--device", "cpu", code=2)
    assert "no image could be explained" in done.stderr and "hint: " in done.stderr
