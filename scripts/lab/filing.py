"""Where benchmarks put what they measured: flags, tables between marks in a file, pictures."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--json`, `--markdown`, `--plot`, and `--from`, which is `source`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table there, where `benches/RESULTS.md` marks its place"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture there: .svg or .png")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="measure nothing; take the figures of an earlier --json"
    )


def put(path: Path, script: str, text: str) -> None:
    """Writes a script's table into a file, between the marks that say where; at its end where there are none."""
    begin, end = f"<!-- begin: {script} -->\n", f"<!-- end: {script} -->\n"
    whole = path.read_text() if path.exists() else ""
    before, _, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    path.write_text(f"{before}{begin}{text}{end}{after}" if closed else f"{whole}{begin}{text}{end}")


def pyplot(path: Path, size: float = 10):
    """matplotlib's, for a picture that is the same file for the same numbers, with letters of this size in points."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    matplotlib.rcParams.update({"svg.hashsalt": "camflow", "svg.fonttype": "none", "font.size": size})
    import matplotlib.pyplot

    return matplotlib.pyplot


def save(figure, path: Path) -> None:
    """Without a date."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
