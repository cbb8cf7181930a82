"""The exporter of this checkout, without installing the package: `python scripts/export_model.py`, as `python -m camflow.export`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from camflow.export.cli import main

if __name__ == "__main__":
    sys.exit(main())
