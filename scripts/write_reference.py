"""Writes what the program itself says in the documentation: cli.md, job-file.md and job-file.schema.json in docs/reference.

    python3 scripts/write_reference.py [CAMFLOW]

CAMFLOW is the program to ask, by default the development build. tests/python/test_docs.py compares the pages with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def text_of(camflow: str, *arguments: str) -> str:
    # As wide as a terminal of the same width everywhere.
    env = {name: value for name, value in os.environ.items() if not name.startswith("CAMFLOW_")} | {"COLUMNS": "100"}
    done = subprocess.run([camflow, *arguments], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env)
    return done.stdout.rstrip() + "\n"


def command_line(camflow: str) -> str:
    """The help of the program and of each of its commands."""
    overview = text_of(camflow, "help")
    commands = re.findall(r"^  ([a-z-]+)  ", overview.split("Commands:")[1].split("Options:")[0], re.MULTILINE)
    page = ["# Command line\n", f"```text\n{overview}```\n"]
    page += [f"## camflow {name}\n\n```text\n{text_of(camflow, 'help', name)}```\n" for name in commands if name != "help"]
    return "\n".join(page)


def job_file(camflow: str) -> str:
    """The job file that explains all keys."""
    return f"""# Job file

`camflow run --print-default` prints this file: every key, with its default.
[Run every night](../how-to/nightly.md) says how to use one.

`camflow run --print-schema` prints the [JSON Schema](job-file.schema.json) of job files. Editors with a TOML plugin complete and
check a file that begins with a line that names it:

```toml
#:schema ./job-file.schema.json
```

## From Rust

The same keys are the fields of `JobSpec`, and `examples/annotate.rs` runs a job without the command line:
`cargo run --example annotate -- DATASET MODEL CLASS FOLDER`.

## All keys

```toml
{text_of(camflow, "run", "--print-default")}```
"""


def pages(camflow: str) -> dict[Path, str]:
    """What the pages have to say, by file."""
    return {
        PAGES / "cli.md": command_line(camflow),
        PAGES / "job-file.md": job_file(camflow),
        PAGES / "job-file.schema.json": text_of(camflow, "run", "--print-schema"),
    }


def main() -> None:
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    camflow = sys.argv[1] if len(sys.argv) > 1 else str(target / "debug" / "camflow")
    for path, text in pages(camflow).items():
        path.write_text(text)


if __name__ == "__main__":
    main()
