"""Where things are: every file name that others rely on is written here once."""

import os
from pathlib import Path

from crab.errors import CrabError

SPLITS = ("train", "validation", "test")


def root() -> Path:
    """Project root, found from wherever the caller starts.

    Returns
    -------
    pathlib.Path
        ``$CRAB_ROOT`` if set, else the nearest folder above the working directory (or above
        this package) that holds ``params.yaml`` and ``dvc.yaml``.

    Raises
    ------
    CrabError
        If no such folder exists.
    """
    if os.environ.get("CRAB_ROOT"):
        return Path(os.environ["CRAB_ROOT"]).resolve()
    starts = (Path.cwd(), Path(__file__).resolve().parent)
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return folder
    raise CrabError(
        f"no CRAB project around {starts[0]}: neither it nor a folder above it holds params.yaml "
        "and dvc.yaml; start inside a clone or set CRAB_ROOT"
    )


def deposits(profile: str, mission: str, split: str) -> Path:
    """Geant4 deposit library of one mission and Monte Carlo split."""
    return root() / "data" / "hits" / profile / f"{mission}-deposits-{split}.nc"


def hits(profile: str, mission: str, environment: str, split: str) -> Path:
    """Truth table beside a simulated cube."""
    return root() / "data" / "hits" / profile / f"{mission}-{environment}-{split}.nc"


def tod(profile: str, mission: str, environment: str, split: str) -> Path:
    """Simulated TOD cube."""
    return root() / "data" / "tod" / profile / f"{mission}-{environment}-{split}.nc"


def model(profile: str, mission: str, name: str) -> Path:
    """Trained network; its settings and normalisation are in the ``.json`` of the same name."""
    return root() / "data" / "models" / profile / mission / f"{name}.keras"


def cube(profile: str, mission: str, environment: str, generator: str) -> Path:
    """Generated TOD cube."""
    return root() / "data" / "cubes" / profile / f"{mission}-{environment}-{generator}.nc"


def figures(profile: str, report: str) -> Path:
    """Folder of the figures of one report."""
    return root() / "reports" / "figures" / profile / report


def tables(profile: str, report: str) -> Path:
    """Folder of the tables and numbers of one report."""
    return root() / "reports" / "tables" / profile / report


def executed(profile: str, report: str) -> Path:
    """Executed notebook of one report, cleaned of times and host names."""
    return root() / "build" / "executed" / profile / f"{report}.ipynb"


def html(profile: str, report: str) -> Path:
    """Rendered report."""
    return root() / "reports" / "html" / profile / f"{report}.html"
