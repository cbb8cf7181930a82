"""`python -m camflow.export`."""

import sys

from ..garbage import collect_seldom
from .cli import main

collect_seldom()
sys.exit(main())
