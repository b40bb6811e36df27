"""Training of the marked point process: from a deposit library to a model on disk."""

from pathlib import Path

import numpy as np

from crab import params, paths, seeds
from crab.errors import CrabError
from crab.generators import event_table, files, marks, source
from crab.generators.event_flux import Rates
from crab.generators.event_table import EventTable
from crab.generators.normalise import HIT_SIGN, Normalisation
from crab.generators.splines import Scale
from crab.io import content_hash, open_table
from crab.params import Params
from crab.physics import montecarlo
from crab.provenance import params_hash
from crab.streaming_settings import TrainEventsNotebook

NAME = "stream_events"
_MODULES = ("event_flux", "event_table", "event_training", "marks", "splines")
_COPIED = ("mission", "lis", "power_convention", "physics_list")
# The largest deposit that may come, over the largest of the library.
_LARGEST = 2.0


def digest() -> str:
    """Hash of the code that a trained model depends on; see `crab.generators.source`."""
    folder = Path(__file__).parent
    return params_hash(*(source.outline((folder / f"{m}.py").read_text()) for m in _MODULES))


def train_events(
    name: str,
    profile: str,
    mission: str,
    settings: TrainEventsNotebook,
    seed: int | None = None,
    path: str | Path | None = None,
) -> Path:
    """Train the generator of single events, or take over a finished one.

    Parameters
    ----------
    name : str
        Its name, usually "stream_events".
    profile, mission : str
        Whose deposit library (split "train") is learned.
    settings : TrainEventsNotebook
    seed : int, optional
        Default: that of params.yaml.
    path : path-like, optional
        ``<model>.keras`` to write. Default: `crab.paths.model`.

    Returns
    -------
    pathlib.Path
        The file; its record is beside it.

    Raises
    ------
    CrabError
        If a name is unknown, the mission has no geometry, or the library is missing or foreign.
    """
    known = params.load()
    seed = known.seed if seed is None else seed
    path = paths.model(profile, mission, name) if path is None else Path(path)
    what = params.choose("mission", mission, known.missions)
    if what.geometry is None:
        raise CrabError(f"{name}: mission {mission}: it has no geometry, so there are no events")
    library = open_table(paths.deposits(profile, mission, "train"))
    hashes = {
        "training_data_hash": content_hash(library),
        "params_hash": params_hash(
            settings,
            seed,
            what,
            *(
                params.choose("train_events.environments", e, known.environments)
                for e in settings.environments
            ),
        ),
        "source_hash": digest(),
    }
    if _is_finished(path, hashes):
        return path
    model, record = fit(name, library, mission, settings, known, seed)
    return files.write_model(path, model, {**record, **hashes})


def fit(
    name: str,
    library,
    mission: str,
    settings: TrainEventsNotebook,
    known: Params,
    seed: int,
):
    """Tables and trained network of a library.

    Parameters
    ----------
    name : str
    library : xarray.Dataset
    mission : str
    settings : TrainEventsNotebook
    known : Params
    seed : int

    Returns
    -------
    model : keras.Model
    record : dict
        Without hashes.
    """
    what = known.missions[mission]
    environments = [known.environments[e] for e in settings.environments]
    common = {
        "mission_name": mission,
        "environment_name": settings.environments[0],
        "seed": seed,
        "split": "train",
    }
    simulator = montecarlo.prepare(library, what, environments[0], **common)
    potentials_mv = np.linspace(
        settings.potential_min_mv, settings.potential_max_mv, settings.n_potentials
    )
    table = event_table.tabulate(
        simulator, environments, potentials_mv, settings.threshold_events_hz
    )
    tables = tables_of(table, simulator)
    drawn = event_table.draw(
        table, simulator, settings.n_draws, seeds.rng(seed, mission, name, "draws")
    )
    present = table.kinds[drawn["kind"]]
    rates = Rates.from_dict(tables)
    solar = drawn["row"] >= table.n_quiet
    z = np.zeros(present.shape, dtype=np.float32)
    for key, group in (("scales", ~solar), ("solar_scales", solar)):
        scales = fit_scales(table, simulator, drawn["marks"][group], present[group])
        tables[key] = [scale.knots.tolist() for scale in scales]
        for mark, scale in enumerate(scales):
            own = group & present[:, mark]
            z[own, mark] = scale.forward(drawn["marks"][own, mark])
    ln_flux = np.log(table.fluxes_cm2[drawn["row"]])
    context = rates.context(drawn["kind"], ln_flux, solar)
    model = marks.build(
        context.shape[1],
        z.shape[1],
        settings.hidden_units,
        settings.hidden_layers,
        settings.n_bins,
        seed,
    )
    losses = marks.train(
        model, np.concatenate([context, z], axis=1), present, settings, seeds.integer(seed, name)
    )
    if not np.isfinite(losses).all():
        raise CrabError(
            f"{name}: the likelihood is no number after {int(np.isfinite(losses).sum())} steps: "
            f"train_events.learning_rate = {settings.learning_rate:g}: try a smaller one"
        )
    detectors = montecarlo._detector_table(simulator)
    attrs = simulator.library.attrs
    record = {
        "generator": name,
        "mission": mission,
        "environment": "any",
        "environments": list(settings.environments),
        "phi_mv": [settings.potential_min_mv, settings.potential_max_mv],
        "lis": environments[0].lis,
        "sampling_rate_hz": what.sampling_rate_hz,
        "power_convention": simulator.sensor.power_convention,
        "physics_list": str(attrs["physics_list"]),
        "detectors": [str(d) for d in detectors["detector"].values],
        "detector_table": _plain(detectors.to_dict()),
        "normalisation": _unit(simulator).to_dict(),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        # As text: the order of the absorbers matters, and a record's keys are sorted.
        "mission_parameters": what.model_dump_json(),
        "marks": list(table.names),
        "threshold_ev": None if np.isinf(table.threshold_ev) else table.threshold_ev,
        "tables": tables,
        "loss": [float(v) for v in losses[:: max(1, len(losses) // 200)]],
    }
    return model, record


def tables_of(table: EventTable, simulator) -> dict:
    """Rates and moments against the flux, as plain lists; see `event_flux` and `small_events`."""
    n = table.n_quiet
    order = np.argsort(table.fluxes_cm2[:n])
    ln_flux = np.log(table.fluxes_cm2[:n][order])
    n_det = simulator.detectors.sizes["detector"]
    kind_hz = table.kind_rates_hz
    first = table.kinds.shape[1] - len(table.slots)
    drawn = np.array([detector < 0 for _, detector in table.slots])
    kind_hz = kind_hz / np.where((table.kinds[:, first:] & drawn).any(axis=1), n_det, 1)
    # Solar events are one class: their rates over their fluxes, all together.
    solar_cm2 = table.fluxes_cm2[n:].sum()
    own = table.kind >= 0
    deposit_ev = np.where(
        table.kinds[table.kind[own], first:], np.exp(table.marks[own, first:].astype(float)), 0
    )
    slots_ev_s = table.rates_hz[:n, own].astype(float) @ deposit_ev / np.where(drawn, n_det, 1)
    out = {
        "kinds": table.kinds.astype(int).tolist(),
        "slots": [list(map(int, slot)) for slot in table.slots],
        "ln_flux": ln_flux.tolist(),
        "quiet_hz": kind_hz[:n][order].tolist(),
        "solar_hz": (kind_hz[n:].sum(axis=0) / max(solar_cm2, 1e-300)).tolist(),
        "slots_ev_s": slots_ev_s[order].tolist(),
    }
    if simulator.plate is not None:
        found = event_table.moments(table, simulator)
        out["small"] = {
            "ln_flux": ln_flux.tolist(),
            "quiet": found["sums"][:, :, :n][:, :, order].tolist(),
            "solar": (found["sums"][:, :, n:].sum(axis=2) / max(solar_cm2, 1e-300)).tolist(),
            "pattern": found["pattern"].tolist(),
        }
    return out


def fit_scales(table: EventTable, simulator, values, present) -> list[Scale]:
    """Scale of each mark, between bounds that physics sets.

    A place is on the wafer; a deposit is at most `_LARGEST` times the largest of the library; one
    made alone is above the threshold.
    """
    scales = []
    own_events = table.kind >= 0
    has = table.kinds[table.kind[own_events]]
    for mark, name in enumerate(table.names):
        known = table.marks[own_events][has[:, mark], mark]
        drawn = values[present[:, mark], mark]
        if not len(drawn):
            drawn = known if len(known) else np.zeros(2)
        if name.endswith("ln_ev"):
            low = drawn.min() if name != event_table.WAFER_MARKS[0] else np.log(table.threshold_ev)
            low = low if name == event_table.WAFER_MARKS[0] else low - 0.1
            high = (known.max() if len(known) else drawn.max()) + np.log(_LARGEST)
            scales.append(Scale.fit(drawn, float(low), float(high), power_law=True))
            continue
        half = simulator.plate.side_mm / 2
        if name in event_table.NEAR_MARKS:
            half = max(np.abs(drawn).max() * 1.05, 0.1)
        scales.append(Scale.fit(drawn, -float(half), float(half), power_law=False))
    return scales


def _unit(simulator) -> Normalisation:
    """The scale of the noise; the generator itself needs none."""
    n_det = simulator.detectors.sizes["detector"]
    noise = simulator.sensor.noise
    scale_w = np.hypot(noise["inside"].values, noise["readout"].values)
    return Normalisation(
        detectors=tuple(str(d) for d in simulator.detectors["detector"].values),
        location_w=np.zeros(n_det),
        scale_w=scale_w,
        sign=HIT_SIGN[simulator.sensor.power_convention],
        stretch_sigma=0.0,
        floor=-1.0,
        ceiling=1.0,
    )


def _is_finished(path: Path, hashes: dict) -> bool:
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    try:
        record = files.read_model(path)[1]
    except CrabError:
        return False
    return all(record.get(key) == value for key, value in hashes.items())


def _plain(node):
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    return node.item() if isinstance(node, np.generic) else node
