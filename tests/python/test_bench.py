"""The benchmark runs from end to end, its figures have their places, and all contenders make the same heatmaps.

Times are not judged: the machine is busy with tests. The model is the stand-in's, which is small and trained.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import LAB


def bench(*arguments) -> str:
    command = [sys.executable, LAB / "bench.py", *arguments]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.long
def test_the_benchmark_measures_and_its_contenders_agree(binary, standin_model, tmp_path):
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    model = ("--model", "scripts/lab/standin/model.py:standin_deeplab", "--archive", standin_model)
    printed = bench(
        "--camflow", binary, *model, "--samples", 3, "--notebook-samples", 1, "--image-size", "120x160", "--json", figures
    )
    result = json.loads(figures.read_text())

    # Where the example was not built there is no device alone.
    ratios = {name for name, value in result["ratios"].items() if value is not None}
    assert {"fp32_vs_notebook", "bf16_vs_notebook", "fp32_vs_python", "fp32_vs_tuned", "exact_vs_notebook"} <= ratios
    assert "end_to_end_vs_device" in result["ratios"]
    assert result["input"] == [3, 520, 693] and len(result["layers"]) == 4
    for name, one in result["contenders"].items():
        assert one["num_samples"] == (1 if name == "notebook" else 3), name
        assert one["images_per_s"] > 0 and one["cpu_s_per_image"] > 0 and one["start_s"] > 0, name
        assert one["peak_memory_bytes"] > 50 << 20, name

    agreement = result["agreement"]
    assert (agreement["base"], agreement["num_maps"], agreement["num_empty"]) == ("notebook", 4, 0)
    deviation = agreement["deviation"]
    print(json.dumps(deviation, indent=1))
    # The same pixels and operators; where batch norms are folded, a trained network moves little.
    assert deviation["python"]["max"] < 1e-4 and deviation["camflow_exact"]["max"] < 1e-4
    assert deviation["tuned"]["max"] < 1e-2 and deviation["camflow"]["max"] < 1e-2
    assert deviation["tuned_bf16"]["mean"] < 1e-2 and deviation["camflow_bf16"]["mean"] < 1e-2

    assert "| (d) camflow |" in printed and "| `fp32_vs_notebook` |" in printed
    assert bench("--from", figures, "--plot", picture) == printed, "the table of the figures is that of the run"
    assert picture.read_text().count("times (a)") >= 4
