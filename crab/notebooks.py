"""Run a notebook with the parameters of one profile, and keep a clean copy of what it showed."""

import ast
import os
import re
import sys
import tempfile
from pathlib import Path

# jsonschema would spend a second and a half of every run on a grammar of addresses (IRIs), which
# notebooks have none of; it does without if it can not be imported.
# ruff: noqa: E402
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from crab import params, paths
from crab.errors import CrabError

_KERNEL_START_S = 120
_MATRIX_KEYS = ("mission", "environment", "model")


def find(name: str) -> Path:
    """Notebook by its stem, with or without number and ending.

    Raises
    ------
    CrabError
        If there is none, with the names that exist.
    """
    found = {p.stem: p for p in sorted((paths.root() / "notebooks").glob("[0-9]*.ipynb"))}
    stem = Path(name).stem
    matches = [s for s in found if stem in (s, section(s))]
    if not matches:
        raise CrabError(f"notebook = {name!r}: allowed are {', '.join(found)}")
    return found[matches[0]]


def section(stem: str) -> str:
    """Section of a profile that belongs to a notebook: ``06_train_gan`` -> ``train_gan``."""
    return re.sub(r"^\d+_", "", stem)


def report_name(stem: str, keys: dict[str, str]) -> str:
    """Name of one run of a notebook: its stem and its matrix keys."""
    return "-".join([stem, *(keys[k] for k in _MATRIX_KEYS if k in keys)])


def declared(notebook: nbformat.NotebookNode, source: str) -> dict:
    """Parameters of a notebook with their defaults, in order.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    source : str
        Its name, for errors.

    Returns
    -------
    dict

    Raises
    ------
    CrabError
        If there is not one cell tagged ``parameters``, or it holds anything but ``name = literal``.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise CrabError(f"{source}: {len(cells)} cells are tagged 'parameters': needs exactly 1")
    values = {}
    for node in ast.parse(cells[0].source).body:
        try:
            (target,) = node.targets
            values[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise CrabError(
                f"{source}: parameters cell: {ast.unparse(node)!r}: allowed is only name = literal"
            ) from None
    return values


def parameters(
    stem: str,
    profile: str,
    keys: dict[str, str],
    settings: params.Params,
) -> dict:
    """Values for a notebook's parameters cell from `params.yaml`.

    Parameters
    ----------
    stem : str
        Notebook's stem.
    profile : str
        Key of ``profiles``.
    keys : dict of str to str
        Matrix keys: ``mission``, ``environment``, ``model``.
    settings : Params

    Returns
    -------
    dict
        ``profile``, ``seed``, the matrix keys and the notebook's own section.

    Raises
    ------
    CrabError
        For an unknown profile, mission, environment or matrix key.
    """
    chosen = params.choose("profile", profile, settings.profiles)
    own = getattr(chosen, section(stem), None)
    tables = {"mission": settings.missions, "environment": settings.environments}
    if isinstance(own, dict):
        # A section for each model: the notebook is run for one of them.
        tables["model"] = own
    for key, value in keys.items():
        params.choose(key, value, params.choose("matrix key", key, tables))
    if isinstance(own, dict):
        own = own[keys["model"]]
    values = {} if own is None else own.model_dump()
    return {"profile": profile, "seed": settings.seed, **keys, **values}


def run(name: str, profile: str, keys: dict[str, str]) -> Path:
    """Execute a notebook.

    Parameters
    ----------
    name : str
        Notebook, as in `find`.
    profile, keys
        As in `parameters`.

    Returns
    -------
    pathlib.Path
        The executed notebook, free of times and progress bars, where `paths.executed` says.

    Raises
    ------
    CrabError
        If a parameter is unknown or missing (papermill only warns of that), or a cell fails: then
        the notebook up to that cell is kept and named.
    """
    source = find(name)
    notebook = nbformat.read(source, as_version=4)
    values = parameters(source.stem, profile, keys, params.load())
    _same_names(declared(notebook, str(source)), values, source)
    target = paths.executed(profile, report_name(source.stem, keys))
    target.parent.mkdir(parents=True, exist_ok=True)
    working = target.with_suffix(".running.ipynb")
    environ = {
        "CRAB_RUN": "1",
        "CRAB_ROOT": str(paths.root()),
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": "946684800",
    }
    os.environ.update(environ)
    for attempt in (1, 2):
        sockets = tempfile.TemporaryDirectory(prefix="crab-")
        try:
            papermill.execute_notebook(
                str(source),
                str(working),
                parameters=values,
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar={"desc": target.stem, "leave": True},
                stderr_file=sys.stderr,
                start_timeout=_KERNEL_START_S,
                config=_own_sockets(sockets.name),
            )
            break
        except PapermillExecutionError as error:
            raise CrabError(_explain(error, working)) from None
        except RuntimeError as error:
            # About one kernel start in 300 hangs on a loaded machine; once more is enough.
            if attempt == 2 or "before replying" not in str(error):
                raise
            tqdm.write(f"{target.stem}: the kernel did not start, trying once more")
        finally:
            sockets.cleanup()
    executed = nbformat.read(working, as_version=4)
    nbformat.write(clean(executed), target)
    working.unlink()
    return target


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove from an executed notebook what changes from run to run.

    Times, paths and progress bars go; code, results and figures stay.
    """
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [o for o in cell.outputs if not _transient(o)]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return notebook


def code_cells(source: Path) -> str:
    """Code of a notebook without its prose, so that edits of the prose rerun nothing."""
    notebook = nbformat.read(source, as_version=4)
    cells = [c.source.rstrip() for c in notebook.cells if c.cell_type == "code"]
    return "\n\n# %%\n".join(cells) + "\n"


def write_sources() -> list[Path]:
    """Write the code of every notebook to ``build/source/<stem>.py``."""
    folder = paths.root() / "build" / "source"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sorted((paths.root() / "notebooks").glob("[0-9]*.ipynb")):
        target = folder / f"{source.stem}.py"
        target.write_text(code_cells(source))
        written.append(target)
    return written


def _own_sockets(folder: str) -> Config:
    # Sockets of the file system: no open ports, no warning about them, nothing in notebooks/.
    return Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


def _same_names(declared_values: dict, given: dict, source: Path) -> None:
    unknown = sorted(set(given) - set(declared_values))
    missing = sorted(set(declared_values) - set(given))
    if unknown:
        raise CrabError(
            f"{source}: parameter {unknown[0]!r} = {given[unknown[0]]!r} is not in its parameters "
            f"cell, which knows {', '.join(declared_values)}"
        )
    if missing:
        raise CrabError(
            f"{source}: parameter {missing[0]!r} has no value; params.yaml and the command line "
            f"give {', '.join(given)}"
        )


def _transient(output) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _explain(error: PapermillExecutionError, working: Path) -> str:
    kept = f"the notebook up to there is {working}"
    if error.ename == "CrabError":
        return f"{error.evalue}\n({kept})"
    return (
        f"{working.name}: cell {error.cell_index} failed: {error.ename}: {error.evalue}\n({kept})"
    )
