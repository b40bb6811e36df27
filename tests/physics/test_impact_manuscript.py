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
    # Where a name is not the first argument, it stands on a line of its own.
    first = r'out\.number\(\s*f?"([^"]+)"' if kind == "number" else rf'out\.{kind}\([^"]*?"(\w+)"'
    names = re.findall(first, code)
    return [r"\w+".join(map(re.escape, re.split(r"\{[^}]*\}", name))) for name in names]


def unknown(quoted: set[str], patterns: list[str]) -> list[str]:
    return [n for n in quoted if not any(re.fullmatch(p, n) for p in patterns)]


def test_every_quoted_number_is_published(tex, code):
    quoted = set(re.findall(r"\\impact\{([^}]+)\}", tex)) - {"#1"}
    patterns = published(code, "number")
    assert len(quoted) > 20
    assert not unknown(quoted, patterns)
    assert unknown({"delta_r_of_nothing"}, patterns)


@pytest.mark.parametrize("kind", ["figure", "table"])
def test_every_figure_and_table_is_published(tex, code, kind):
    quoted = set(re.findall(rf"\\impact{kind}\{{(\w+)\}}", tex))
    patterns = published(code, kind)
    assert quoted and not unknown(quoted, patterns)
    assert unknown({"of_nothing"}, patterns)


def test_braces_and_environments_are_balanced(tex):
    plain = re.sub(r"(?<!\\)%.*", "", tex)
    assert plain.replace(r"\{", "").count("{") == plain.replace(r"\}", "").count("}")
    open_now = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if what == "begin":
            open_now.append(name)
        else:
            assert open_now.pop() == name
    assert not open_now
    assert plain.count("$") % 2 == 0


def test_every_citation_has_an_entry(tex):
    cited = {key for keys in re.findall(r"\\cite\{([^}]+)\}", tex) for key in keys.split(",")}
    assert cited == set(re.findall(r"\\bibitem\{(\w+)\}", tex))
