"""The manuscript quotes what notebook 10 publishes, and types no result."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tex() -> str:
    return (ROOT / "docs" / "manuscript" / "crab.tex").read_text()


@pytest.fixture(scope="module")
def code() -> str:
    notebook = nbformat.read(ROOT / "notebooks" / "10_impact.ipynb", as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def published(code: str, kind: str) -> list[str]:
    """Patterns of the names given to `Outputs`: a placeholder of an f-string stands for a word."""
    names = re.findall(rf'out\.{kind}\((?:[^"]*?)f?"([a-z_{{}}]+)"', code)
    return [re.sub(r"\{\w+\}", "(raw|deglitched)", name) for name in names]


def test_every_quoted_number_is_published(tex, code):
    quoted = set(re.findall(r"\\impact\{(\w+)\}", tex))
    patterns = published(code, "number")
    assert len(quoted) > 8
    missing = [n for n in quoted if not any(re.fullmatch(p, n) for p in patterns)]
    assert not missing


@pytest.mark.parametrize("kind", ["figure", "table"])
def test_every_figure_and_table_is_published(tex, code, kind):
    quoted = set(re.findall(rf"\\impact{kind}\{{(\w+)\}}", tex))
    patterns = published(code, kind)
    assert quoted and not [n for n in quoted if not any(re.fullmatch(p, n) for p in patterns)]
