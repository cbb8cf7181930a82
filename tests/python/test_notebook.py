"""The notebook of the documentation, executed as it stands, with FiftyOne's zoo on this disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT, python_path

NOTEBOOK = ROOT / "docs" / "notebooks" / "where-it-looks.ipynb"
PHOTOS = ("astronaut", "chelsea", "coffee")
# The tools that build the documentation have nbclient and ipykernel; the kernel is this Python, with its packages first.
TOOLS = 'source scripts/tool_environment.sh; tool_environment docs docs/requirements.txt; echo "$env"'
KERNEL = (
    "import sys; sys.path.append(sys.argv.pop(1)); from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, kernel_name="camflow", timeout=600, resources={"metadata": {"path": sys.argv[3]}}).execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


@pytest.fixture
def tools() -> Path:
    done = subprocess.run(["bash", "-c", TOOLS], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.split()[-1])


@pytest.fixture
def zoo(database, tmp_path) -> dict[str, str]:
    """Settings with which FiftyOne finds its `quickstart` and the weights of a ResNet-18 as if it had downloaded them."""
    import fiftyone as fo
    import fiftyone.zoo as foz
    import torchvision
    from PIL import Image
    from skimage import data

    import torch

    folder = tmp_path / "datasets" / "quickstart"
    photos = tmp_path / "photos"
    photos.mkdir()
    dataset = fo.Dataset()
    for name in PHOTOS:
        Image.fromarray(getattr(data, name)()).save(photos / f"{name}.jpg")
        dataset.add_sample(fo.Sample(str(photos / f"{name}.jpg")))
    dataset.export(str(folder), dataset_type=fo.types.FiftyOneDataset, progress=False)
    dataset.delete()
    zoo_dataset = foz.get_zoo_dataset("quickstart")
    info = foz.ZooDatasetInfo(zoo_dataset, fo.types.FiftyOneDataset(), len(PHOTOS))
    info.write_json(zoo_dataset.get_info_path(str(folder)))
    # FiftyOne looks for the weights that it names, torchvision for those that it has now.
    weights = [tmp_path / "models" / foz.get_zoo_model("resnet18-imagenet-torch").filename]
    weights.append(tmp_path / "hub" / "checkpoints" / Path(torchvision.models.ResNet18_Weights.DEFAULT.url).name)
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    for path in weights:
        path.parent.mkdir(parents=True)
        torch.save(state, path)
    return {
        "FIFTYONE_DATASET_ZOO_DIR": str(folder.parent),
        "FIFTYONE_MODEL_ZOO_DIR": str(tmp_path / "models"),
        "TORCH_HOME": str(tmp_path),
    }


def outputs(cell: dict) -> str:
    """What a cell has shown, as text."""
    parts = [part for output in cell["outputs"] for part in (output.get("text", ""), *output.get("data", {}).values())]
    return "".join("".join(part) for part in parts)


def test_the_notebook_does_what_it_says(binary, tools, zoo, database, tmp_path, request):
    import fiftyone as fo

    kernel = tmp_path / "jupyter" / "kernels" / "camflow"
    kernel.mkdir(parents=True)
    [site] = tools.glob("lib/python3*/site-packages")
    command = [sys.executable, "-c", KERNEL, str(site), "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "camflow", "language": "python"}))
    folders = {
        name: str(tmp_path / name.lower()) for name in ("CAMFLOW_CACHE", "XDG_DATA_HOME", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    environment = {
        **os.environ,
        **zoo,
        **folders,
        "FIFTYONE_DATABASE_URI": database,
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "CAMFLOW_BIN": str(binary),
        "PYTHONPATH": python_path(PACKAGES),
    }
    executed = tmp_path / "executed.ipynb"
    request.addfinalizer(lambda: fo.dataset_exists("where-it-looks") and fo.delete_dataset("where-it-looks"))
    command = [tools / "bin" / "python", "-c", EXECUTE, NOTEBOOK, executed, tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(executed.read_text())["cells"] if cell["cell_type"] == "code"]
    loaded, computed, label, values, shown, arrays, report = map(outputs, cells)
    assert "Downloading" not in loaded
    assert f"{len(PHOTOS)} samples read: {len(PHOTOS)} annotated ({2 * len(PHOTOS)} heatmaps)" in computed
    assert label.startswith("top_grad_layer_4 ") and " layer4 entropy 0." in label
    assert "(512, 512) float32 from " in values and "to 1.00" in values
    assert "data:image/png;base64," in shown
    assert [line.split()[0] for line in arrays.splitlines()] == ["gradcam", "layercam"]
    assert "<iframe" in report and "top_grad_layer_3" in report


def test_the_notebook_has_no_outputs():
    """They would be of another machine, and large."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
