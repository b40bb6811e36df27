"""Figures, tables and numbers that leave a notebook."""

import base64
import io
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from crab import paths
from crab.errors import CrabError

# PDF writers stamp the time of day unless told otherwise; bytes must not depend on it.
_FIXED_DATE = "946684800"
_SCREEN_DPI = 110


class Outputs:
    """Collects what one notebook publishes.

    Parameters
    ----------
    profile : str
        ``smoke`` or ``full``.
    report : str
        Notebook's stem and its matrix keys, e.g. ``02_deposits-litebird_lft``.
    """

    def __init__(self, profile: str, report: str):
        self.profile = profile
        self.report = report
        self.figures = paths.figures(profile, report)
        self.tables = paths.tables(profile, report)
        self._numbers: dict[str, dict] = {}
        self._captions: list[dict[str, str]] = []
        # Tables that a notebook shows: no cell ends in "...".
        pd.set_option("display.max_colwidth", None)
        for folder in (self.figures, self.tables):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                old.unlink()

    def figure(self, fig, name: str, caption: str) -> None:
        """Show a figure and save it as PDF and PNG, the same bytes for the same picture.

        The first figure of a report is its key figure on the index page.
        """
        os.environ.setdefault("SOURCE_DATE_EPOCH", _FIXED_DATE)
        fig.savefig(self.figures / f"{name}.pdf")
        png = self.figures / f"{name}.png"
        fig.savefig(png, metadata={"Software": None})
        self._captions.append({"name": name, "caption": caption})
        # The saved file itself is shown, whatever Matplotlib's backend is.
        encoded = base64.b64encode(png.read_bytes()).decode()
        display(
            {"image/png": encoded, "text/plain": caption},
            raw=True,
            metadata={
                "crab": {"name": name, "caption": caption},
                "image/png": {"width": round(fig.get_figwidth() * _SCREEN_DPI)},
            },
        )
        plt.close(fig)

    def table(self, frame: pd.DataFrame, name: str, caption: str) -> pd.DataFrame:
        """Save a table as CSV (full precision) and TeX (4 digits); returns it, to be shown."""
        frame.to_csv(self.tables / f"{name}.csv", index=False)
        tex = frame.to_latex(
            index=False,
            escape=True,
            caption=caption,
            label=f"tab:{self.report}-{name}",
            float_format="%.4g",
        )
        (self.tables / f"{name}.tex").write_text(tex)
        self._captions.append({"name": name, "caption": caption})
        return frame

    def number(self, name: str, value, error=None, unit: str = "") -> None:
        """Record one number for ``numbers.tex`` and for other notebooks.

        Raises
        ------
        CrabError
            If the name was used before.
        """
        if name in self._numbers:
            raise CrabError(f"number {name!r} of report {self.report} was given twice")
        self._numbers[name] = {
            "value": _plain(value),
            "error": _plain(error),
            "unit": unit,
        }

    def close(self) -> None:
        """Write ``numbers.json`` and ``captions.json``."""
        for name, content in (("numbers", self._numbers), ("captions", self._captions)):
            text = json.dumps(content, indent=1, sort_keys=True) + "\n"
            (self.tables / f"{name}.json").write_text(text)


def read_numbers(profile: str, report: str) -> dict[str, dict]:
    """Numbers of another report.

    Returns
    -------
    dict of str to dict
        ``{"value", "error", "unit"}`` by name.

    Raises
    ------
    CrabError
        If that report has not been made.
    """
    path = paths.tables(profile, report) / "numbers.json"
    return json.loads(_read(path))


def read_table(profile: str, report: str, name: str) -> pd.DataFrame:
    """Table of another report.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    CrabError
        If that report has not been made.
    """
    return pd.read_csv(io.StringIO(_read(paths.tables(profile, report) / f"{name}.csv")))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise CrabError(f"{path}: no such file; `dvc repro` makes it") from None


def _plain(value):
    if value is None or isinstance(value, str | bool):
        return value
    return value.item() if hasattr(value, "item") else value
