"""Pages that people read: every executed notebook as self-contained HTML, an index, and the
tables and numbers of all reports gathered under their stable names."""

import base64
import html
import json
import re
from pathlib import Path

import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown2html_mistune

from crab import paths, provenance
from crab.errors import CrabError

_TEMPLATES = Path(__file__).with_name("templates")
_BANNERS = {
    "smoke": (
        "<b>SMOKE</b> profile: every stage runs, in minutes on two cores. Samples are short and "
        "networks are hardly trained: read these numbers as a test of the chain."
    )
}
# Tables of all reports that are put together under stable names; None: too long for the index.
_GATHERED = {
    "kpis": "KPIs",
    "ranking": "Generators, best first",
    "scorecard": None,
    "validation": "Validation of the Monte Carlo",
}
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
_CODE = re.compile(r"(<pre.*?</pre>|<code.*?</code>)", re.DOTALL)


def build() -> Path:
    """Render all executed notebooks, the index page, and the gathered tables and numbers.

    Returns
    -------
    pathlib.Path
        ``reports/index.html``.

    Raises
    ------
    CrabError
        If nothing has been executed.
    """
    executed = sorted((paths.root() / "build" / "executed").glob("*/[0-9]*.ipynb"))
    executed = [p for p in executed if not p.name.endswith(".running.ipynb")]
    if not executed:
        raise CrabError(f"{paths.root()}/build/executed: no executed notebook; run `dvc repro`")
    cards: dict[str, list[dict]] = {}
    for path in executed:
        profile = path.parent.name
        cards.setdefault(profile, []).append(render(path, profile))
    reports = paths.root() / "reports"
    gathered = {name: _gather(name) for name in _GATHERED}
    tables = [
        {"title": title, "html": _table_html(gathered[name])}
        for name, title in _GATHERED.items()
        if title and gathered[name] is not None
    ]
    _write_numbers_tex(reports / "numbers.tex")
    env = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=False)
    page = env.get_template("reports.html.j2").render(
        css=(_TEMPLATES / "style.css").read_text(),
        profiles=[
            {"name": name, "banner": _BANNERS.get(name), "cards": found}
            for name, found in cards.items()
        ],
        tables=tables,
        footer=_footer(),
    )
    index = reports / "index.html"
    index.write_text(page)
    return index


def render(path: Path, profile: str) -> dict:
    """Render one executed notebook.

    The prose is taken from the notebook as it is now, so that edits of it show without a rerun.

    Parameters
    ----------
    path : pathlib.Path
        Executed notebook.
    profile : str

    Returns
    -------
    dict
        The report's card for the index: title, question, key figure, link.
    """
    report = path.stem
    notebook = nbformat.read(path, as_version=4)
    _refresh_prose(notebook, report)
    _number_figures(notebook)
    title, question = _heading(notebook)
    exporter = HTMLExporter(
        template_name="crab",
        extra_template_basedirs=[str(_TEMPLATES)],
        filters={
            "markdown_mathml": markdown_mathml,
            "inline_math": lambda text: _mathml(html.escape(text)),
            "code_title": _code_title,
        },
    )
    page = {
        "title": f"{title} · CRAB",
        "css": (_TEMPLATES / "style.css").read_text(),
        "banner": _BANNERS.get(profile),
        "profile": profile,
        "report": report,
        "footer": _footer(),
    }
    text, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    target = paths.html(profile, report)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    image, caption = _key_figure(profile, report)
    return {
        "title": title,
        "question": _mathml(html.escape(question)),
        "tag": report,
        "href": f"html/{profile}/{report}.html",
        "image": image,
        "caption": caption,
    }


def markdown_mathml(text: str) -> str:
    """Markdown to HTML, with TeX formulas as MathML: browsers draw it without any script."""
    pieces = _CODE.split(markdown2html_mistune(text))
    return "".join(p if i % 2 else _mathml(p) for i, p in enumerate(pieces))


def _mathml(text: str) -> str:
    def convert(match):
        block, inline = match.groups()
        tex = html.unescape(re.sub(r"<[^>]+>", "", block or inline))
        return latex2mathml.converter.convert(tex, display="block" if block else "inline")

    return _MATH.sub(convert, text)


def _refresh_prose(notebook, report: str) -> None:
    folder = paths.root() / "notebooks"
    sources = [p for p in folder.glob("*.ipynb") if report.split("-")[0] == p.stem]
    if not sources:
        return
    current = nbformat.read(sources[0], as_version=4).cells
    # Papermill adds one cell of its own after the parameters.
    executed = [
        c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])
    ]
    same_code = [c.source for c in current if c.cell_type == "code"] == [
        c.source for c in executed if c.cell_type == "code"
    ]
    if not same_code or [c.cell_type for c in current] != [c.cell_type for c in executed]:
        return
    for old, new in zip(executed, current, strict=True):
        if old.cell_type == "markdown":
            old.source = new.source


def _number_figures(notebook) -> None:
    number = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "crab" in output.get("metadata", {}):
                number += 1
                output.metadata.crab.number = number


def _heading(notebook) -> tuple[str, str]:
    """Title, and the first sentence below it."""
    title, _, rest = notebook.cells[0].source.strip().partition("\n")
    paragraph = re.sub(r"[*_`]", "", " ".join(rest.strip().split("\n\n")[0].split()))
    sentence = re.match(r".+?[.?!](?=\s|$)", paragraph)
    return title.lstrip("# "), sentence.group() if sentence else paragraph


def _code_title(cell) -> str:
    tags = cell.metadata.get("tags", [])
    if "injected-parameters" in tags:
        return "parameters of this run"
    if "parameters" in tags:
        return "default parameters"
    return "code"


def _key_figure(profile: str, report: str) -> tuple[str | None, str]:
    captions = paths.tables(profile, report) / "captions.json"
    if captions.is_file():
        for item in json.loads(captions.read_text()):
            image = paths.figures(profile, report) / f"{item['name']}.png"
            if image.is_file():
                return base64.b64encode(image.read_bytes()).decode(), item["caption"]
    return None, ""


def _gather(name: str) -> pd.DataFrame | None:
    found = sorted((paths.root() / "reports" / "tables").glob(f"*/*/{name}.csv"))
    if not found:
        return None
    frames = [
        pd.read_csv(p).assign(report=f"{p.parent.parent.name}/{p.parent.name}") for p in found
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame.to_csv(paths.root() / "reports" / "tables" / f"{name}.csv", index=False)
    return frame


def _table_html(frame: pd.DataFrame) -> str:
    shown = frame.copy()
    for column in shown.select_dtypes("float"):
        shown[column] = shown[column].map(lambda v: "" if pd.isna(v) else f"{v:.4g}")
    shown = shown.fillna("")
    if "pass" in shown:
        shown["pass"] = shown["pass"].map(
            lambda v: {"True": "pass", "False": "FAIL"}.get(str(v), str(v) or "not judged")
        )
    rows = shown.to_html(index=False, border=0, classes="gathered")
    return re.sub(r"<tr>((?:(?!</tr>).)*?<td>FAIL</td>)", r'<tr class="fail">\1', rows, flags=re.S)


def _write_numbers_tex(path: Path) -> None:
    lines = [
        "% Written by `crab report`. Use \\crab{profile/report/name}, e.g.",
        "% \\crab{smoke/01_environment/...}; the names are in reports/tables/*/*/numbers.json.",
        "\\providecommand{\\crab}[1]{\\csname crab:#1\\endcsname}",
    ]
    for file in sorted((paths.root() / "reports" / "tables").glob("*/*/numbers.json")):
        prefix = f"{file.parent.parent.name}/{file.parent.name}"
        for name, number in sorted(json.loads(file.read_text()).items()):
            key = f"crab:{prefix}/{name}"
            lines.append(f"\\expandafter\\def\\csname {key}\\endcsname{{{_tex(number)}}}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _tex(number: dict) -> str:
    value, error, unit = number["value"], number["error"], number["unit"]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    text = _tex_float(value)
    if error is not None:
        text += rf" \pm {_tex_float(error)}"
    unit = unit.replace("%", r"\%").replace("_", r"\_").replace("^", r"\^{}")
    return f"\\ensuremath{{{text}}}" + (rf"\,{unit}" if unit else "")


def _tex_float(value: float) -> str:
    text = f"{value:.4g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return rf"{mantissa}\times 10^{{{int(exponent)}}}"
    return text


def _footer() -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    return [
        f"CRAB, commit {provenance.git_commit(paths.root())}. {versions}.",
        "Made by `dvc repro`; GPL-3.0-or-later.",
    ]
