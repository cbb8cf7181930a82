"""The exporter of this checkout, without installing the package: `python scripts/export_model.py` is `python -m camflow.export`.

Scripts beside it import it for the package's `load_model`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from camflow.export import load_model
from camflow.export.cli import main
from camflow.garbage import collect_seldom

__all__ = ["load_model", "main"]

if __name__ == "__main__":
    collect_seldom()
    sys.exit(main())
