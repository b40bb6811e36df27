"""A trained network on disk: ``<model>.keras`` and, beside it, ``<model>.json``.

The JSON file holds what turns network output into a TOD: normalisation, mission, environment,
detectors, settings and hashes. The bytes of both depend on nothing but their content.
"""

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

from crab.errors import CrabError
from crab.generators.backend import keras
from crab.generators.normalise import Normalisation

RECORD_KEYS = (
    "generator",
    "mission",
    "environment",
    "phi_mv",
    "lis",
    "sampling_rate_hz",
    "power_convention",
    "physics_list",
    "detectors",
    "detector_table",
    "normalisation",
    "settings",
    "seed",
    "params_hash",
    "training_data_hash",
    "keras_sha256",
    "backend",
)
_AGAIN = "train it again (notebook 06_train_gan, or `dvc repro`), or fetch it with `dvc pull`"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def write_model(path: str | Path, model: keras.Model, record: dict) -> Path:
    """Write a network and its record.

    Parameters
    ----------
    path : path-like
        ``<model>.keras``.
    model : keras.Model
    record : dict
        `RECORD_KEYS` less ``keras_sha256`` and ``backend``, which are filled in here, and anything
        else JSON can hold.

    Returns
    -------
    pathlib.Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _keras_bytes(model)
    record = {
        **record,
        "keras_sha256": hashlib.sha256(content).hexdigest(),
        "backend": keras.backend.backend(),
    }
    replace(path, content)
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    replace(path.with_suffix(".json"), text.encode())
    return path


def write_network(path: str | Path, model: keras.Model) -> Path:
    """Write a network alone, with bytes that depend on nothing but its content.

    Parameters
    ----------
    path : path-like
    model : keras.Model

    Returns
    -------
    pathlib.Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, _keras_bytes(model))
    return path


def replace(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(path: str | Path) -> dict:
    """Record of a trained model.

    Parameters
    ----------
    path : path-like
        ``<model>.keras``; the JSON file beside it is read.

    Raises
    ------
    CrabError
        If it is missing, is no JSON or lacks a key.
    """
    source = Path(path).with_suffix(".json")
    try:
        record = json.loads(source.read_text())
    except FileNotFoundError:
        raise CrabError(
            f"{source}: no such file: without it {Path(path).name} has no units; {_AGAIN}"
        ) from None
    except ValueError as error:
        raise CrabError(f"{source}: not valid JSON ({error}); {_AGAIN}") from None
    for key in RECORD_KEYS:
        if key not in record:
            raise CrabError(f"{source}: {key!r} is missing; {_AGAIN}")
    return record


def read_model(path: str | Path) -> tuple[keras.Model, dict, Normalisation]:
    """Network, record and normalisation of a trained model.

    Parameters
    ----------
    path : path-like
        ``<model>.keras``.

    Returns
    -------
    (keras.Model, dict, Normalisation)

    Raises
    ------
    CrabError
        If a file is missing or truncated, or the two are not of the same training.
    """
    path = Path(path)
    if not path.is_file():
        raise CrabError(f"{path}: no such file; {_AGAIN}")
    record = read_record(path)
    normalisation = Normalisation.from_dict(record["normalisation"], str(path.with_suffix(".json")))
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise CrabError(
            f"{path}: not a whole .keras file ({len(content)} bytes): it may be truncated; {_AGAIN}"
        )
    if hashlib.sha256(content).hexdigest() != record["keras_sha256"]:
        raise CrabError(
            f"{path}: SHA-256 differs from keras_sha256 in {path.with_suffix('.json').name}: they "
            f"are not of the same training; {_AGAIN}"
        )
    return keras.saving.load_model(path, compile=False), record, normalisation


def check_record(
    record: dict,
    path: str | Path,
    mission: str | None,
    environment: str | None,
    detectors: list[str] | None,
) -> None:
    """Refuse a model that was trained for something else; None is not checked.

    Raises
    ------
    CrabError
        If mission, environment or detectors differ.
    """
    for key, asked in (("mission", mission), ("environment", environment)):
        if asked is not None and record[key] != asked:
            raise CrabError(
                f"{path}: {key} = {asked!r} was asked for, the model was trained for "
                f"{record[key]!r}; {_AGAIN}"
            )
    if detectors is not None and list(detectors) != record["detectors"]:
        odd = sorted(set(detectors) ^ set(record["detectors"]))
        what = f"{odd[0]!r} is in one list only" if odd else "the order differs"
        raise CrabError(
            f"{path}: {len(detectors)} detectors were asked for, the model was trained for "
            f"{len(record['detectors'])} ({what}); {_AGAIN}"
        )


def _keras_bytes(model: keras.Model) -> bytes:
    # Keras stamps the time of day into metadata.json and into members of the zip archive, and
    # memory addresses into config.json.
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        fixed = io.BytesIO()
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(fixed, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    version = json.loads(content)["keras_version"]
                    metadata = {"keras_version": version, "date_saved": "1980-01-01@00:00:00"}
                    content = json.dumps(metadata).encode()
                elif name == "config.json":
                    content = json.dumps(_renumbered(json.loads(content), {})).encode()
                target.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content)
    return fixed.getvalue()


def _renumbered(node, numbers: dict[int, int]):
    """A Keras configuration with its shared objects numbered by first appearance."""
    if isinstance(node, list):
        return [_renumbered(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: numbers.setdefault(value, len(numbers))
        if key == "shared_object_id"
        else _renumbered(value, numbers)
        for key, value in node.items()
    }
