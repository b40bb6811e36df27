"""What made an artefact: its parameters as a hash in it, all else in a file beside it."""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel

_PACKAGES = ("crab", "numpy", "scipy", "xarray", "keras", "tensorflow", "geant4-pybind")


def params_hash(*objects) -> str:
    """Hash of parameters: 12 hexadecimal digits of the SHA-256 of their canonical JSON.

    Parameters
    ----------
    *objects : pydantic models, dicts, numbers or strings

    Returns
    -------
    str
    """
    text = json.dumps([_plain(o) for o in objects], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write(path: str | Path, **facts) -> Path:
    """Write ``<artefact>.prov.json``: time, host, git commit, versions and `facts`.

    These change at every run, so they stay out of the artefact, whose hash must not.

    Parameters
    ----------
    path : path-like
        The artefact.
    **facts
        Anything JSON can hold, e.g. ``wall_s``.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    path = Path(path)
    record = {
        "artefact": path.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(path.parent),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        **facts,
    }
    target = path.with_name(path.name + ".prov.json")
    target.write_text(json.dumps(record, indent=1, default=str) + "\n")
    return target


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide the numbers."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit(folder: Path) -> str:
    """Commit of the checkout, with ``-dirty`` if tracked files differ; "unknown" outside one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _plain(item):
    return item.model_dump(mode="json") if isinstance(item, BaseModel) else item
