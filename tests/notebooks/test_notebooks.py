"""Notebooks as committed: no outputs, one question, parameters equal to the smoke profile."""

import nbformat
import pytest
import yaml

from crab import CrabError, notebooks, params, paths

ALL = sorted((paths.root() / "notebooks").glob("[0-9]*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def stage_keys(path):
    """Matrix keys that the pipeline passes to this notebook."""
    stages = yaml.safe_load((paths.root() / "dvc.yaml").read_text())["stages"].values()
    command = next(s["cmd"] for s in stages if path.stem in s["cmd"])
    model = {
        "05_train_vae": "vae_gaussian",
        "06_train_gan": "gan_reference",
        "08_conditional": "stream_events",
    }.get(path.stem)
    defaults = {"mission": "litebird_lft", "environment": "litebird_2032", "model": model}
    return {k: v for k, v in defaults.items() if f"--{k} " in command}


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_parameters_cell_is_the_smoke_profile(path):
    settings = params.load()
    expected = notebooks.parameters(path.stem, "smoke", stage_keys(path), settings)
    assert notebooks.declared(read(path), path.name) == expected


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_committed_without_outputs(path):
    book = read(path)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert set(book.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_tells_a_story(path):
    """Title and question first, then the parameters; words at the end."""
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "?" in cells[0].source
    kinds = [c.cell_type for c in cells]
    first_code = kinds.index("code")
    assert "parameters" in cells[first_code].metadata.tags
    assert kinds[-1] == "markdown"


def book(*cells):
    made = [nbformat.v4.new_code_cell(source, metadata=meta) for source, meta in cells]
    return nbformat.v4.new_notebook(cells=made)


TAG = {"tags": ["parameters"]}


def test_declared_reads_literals_only():
    values = notebooks.declared(book(("a = 1.5\nb = -2\nc = ['x']", TAG)), "n")
    assert values == {"a": 1.5, "b": -2, "c": ["x"]}
    for bad in ("a = 1 + x", "import os", "a, b = 1, 2"):
        with pytest.raises(CrabError, match="allowed is only name = literal"):
            notebooks.declared(book((bad, TAG)), "n")
    with pytest.raises(CrabError, match="0 cells are tagged 'parameters'"):
        notebooks.declared(book(("a = 1", {})), "n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one tiny notebook, run for real by papermill."""
    (tmp_path / "notebooks").mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((paths.root() / name).read_text())
    monkeypatch.setenv("CRAB_ROOT", str(tmp_path))

    def write(parameters, *code):
        cells = [("\n".join(f"{k} = {v!r}" for k, v in parameters.items()), TAG)]
        cells += [(c, {}) for c in code]
        made = book(*cells)
        made.metadata = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        made.cells.insert(0, nbformat.v4.new_markdown_cell("# Title\n\nWhat is $x_1$?"))
        nbformat.write(made, tmp_path / "notebooks" / "04_explore.ipynb")

    return write


KEYS = {"mission": "litebird_lft", "environment": "litebird_2032"}


def own_parameters(**changes):
    values = notebooks.parameters("04_explore", "smoke", KEYS, params.load())
    return {**values, **changes}


def test_runner_fails_on_unknown_and_missing_parameters(project):
    values = own_parameters()
    values.pop("segment_s")
    project(values)
    with pytest.raises(
        CrabError, match=r"parameter 'segment_s' = .* is not in its parameters cell"
    ):
        notebooks.run("explore", "smoke", KEYS)
    project(own_parameters(colour="red"))
    with pytest.raises(CrabError, match="parameter 'colour' has no value"):
        notebooks.run("explore", "smoke", KEYS)
    with pytest.raises(CrabError, match="environment = 'mars': allowed are"):
        notebooks.run("explore", "smoke", {**KEYS, "environment": "mars"})
    with pytest.raises(CrabError, match="profile = 'big': allowed are full, smoke"):
        notebooks.run("explore", "big", KEYS)
    with pytest.raises(CrabError, match="notebook = 'nothing': allowed are 04_explore"):
        notebooks.run("nothing", "smoke", KEYS)


def test_runner_passes_values_cleans_and_renders(project, tmp_path):
    from crab import pages

    project(
        own_parameters(threshold_sigma=-1.0),
        "print('threshold', threshold_sigma)\nimport sys; print('bar', file=sys.stderr)",
        "from crab import plots, report\n"
        "out = report.Outputs(profile, f'04_explore-{mission}-{environment}')\n"
        "fig, ax = plots.figure(); ax.plot([0, 1]); out.figure(fig, 'line', 'A $y_2$ line.')\n"
        "out.number('slope', 1.5e-9, 2e-10, 'W/s'); out.close()",
        "import pandas as pd\nout.table(pd.DataFrame({'quantity': ['heat']}), 'list', 'A list.')",
    )
    first = notebooks.run("04_explore", "smoke", KEYS).read_bytes()
    assert notebooks.run("04_explore", "smoke", KEYS).read_bytes() == first
    threshold = params.load().profiles["smoke"].explore.threshold_sigma
    assert f"threshold {threshold}".encode() in first and b'"bar' not in first

    # Prose can be edited without running anything again.
    source = tmp_path / "notebooks" / "04_explore.ipynb"
    source.write_text(source.read_text().replace("What is $x_1$?", "New words?"))
    index = pages.build()
    page = paths.html("smoke", "04_explore-litebird_lft-litebird_2032").read_text()
    assert "New words?" in page and "SMOKE" in page
    assert "<b>Figure 1.</b> A <math" in page and "data:image/png;base64," in page
    assert "<td>heat</td>" in page
    for text in (page, index.read_text()):
        assert "<script" not in text and 'src="http' not in text
    assert "04_explore-litebird_lft-litebird_2032.html" in index.read_text()
    numbers = (tmp_path / "reports" / "numbers.tex").read_text()
    assert r"slope\endcsname{\ensuremath{1.5\times 10^{-9} \pm 2\times 10^{-10}}\,W/s}" in numbers


def test_failing_cell_gives_one_clear_error_and_keeps_the_notebook(project):
    project(
        own_parameters(),
        "from crab import CrabError\nraise CrabError('tod = NaN: allowed are numbers')",
    )
    with pytest.raises(CrabError, match="tod = NaN: allowed are numbers") as caught:
        notebooks.run("explore", "smoke", KEYS)
    assert "running.ipynb" in str(caught.value)


def test_command_line_prints_one_line_and_returns_2(project, capsys):
    from crab import cli

    project(own_parameters())
    assert cli.main(["run", "explore", "--mission", "mars"]) == 2
    assert capsys.readouterr().err.startswith("crab: error: mission = 'mars': allowed are")
