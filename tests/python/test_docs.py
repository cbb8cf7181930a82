"""The documentation against the program: what is generated is current, and what is linked from outside the site is there.
`scripts/docs.sh` checks the links within it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import write_reference


def test_the_reference_is_the_programs_own_text(binary):
    for path, text in write_reference.pages(str(binary)).items():
        assert path.read_text() == text, f"{path} is not current: python3 scripts/write_reference.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/llms.txt"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", text)
    assert links
    for link, anchor in links:
        if link.startswith("http"):
            continue
        target = (ROOT / page).parent / link
        assert target.exists(), f"{page} links to {link}, which is not there"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor[1:] in slugs, f"{page} links to {link}{anchor}; there are {sorted(slugs)}"


def test_the_readme_is_a_page_and_names_what_is_documented():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    linked = {link for link in re.findall(r"\]\(([^)#\s]+)", "\n".join(lines)) if link.startswith("docs/")}
    # Short ones that the site's menu leads to.
    assert pages - linked <= {"docs/explanation/decisions.md", "docs/explanation/glossary.md", "docs/reference/models-tried.md"}
