"""Events of a deposit library as a marked point process: kinds, their rates, and their marks.

An event's *kind* is which of its marks exist: the deposit in the wafer and its centroid for a hit
on the wafer alone, the same (centroid relative to the sensor) and the deposits in absorbers for a
hit on a sensor. With a wafer, hits on any of its sensors are alike and the sensor is drawn; without
one, a particle may cross several, so that all absorbers of all detectors are marks of their own.
Small deposits in the wafer are too many to be made one by one: here only their moments are kept.
"""

from dataclasses import dataclass

import numpy as np

from crab.errors import CrabError
from crab.params import Environment
from crab.physics import spectra, wafer
from crab.physics.conditions import fluxes_cm2
from crab.physics.simulator import Simulator

WAFER_MARKS = ("wafer_ln_ev", "wafer_x_mm", "wafer_y_mm")
NEAR_MARKS = ("near_ln_ev", "near_x_mm", "near_y_mm")
CELLS_PER_AXIS = 16
ORDERS = (1, 2, 3)  # of the moments of the deposits


@dataclass(frozen=True)
class EventTable:
    """A library's events as rows of marks.

    Attributes
    ----------
    names : tuple of str
        Marks, in the order in which they are drawn.
    slots : tuple of (int, int)
        Absorber and detector of each mark of an absorber; the detector is -1 if it is drawn.
    kinds : ndarray of bool, shape (n_kinds, n_marks)
        Which marks a kind has.
    kind : ndarray of int, shape (n_events,)
        -1 for an event that is not made one by one.
    marks : ndarray of float32, shape (n_events, n_marks)
        0 where there is none.
    threshold_ev : float
        Deposits in the wafer alone are made one by one above it; infinite without a wafer.
    rates_hz : ndarray, shape (n_potentials + n_solar, n_events)
        Quiet flux at each potential, then each solar event at its peak.
    fluxes_cm2 : ndarray, shape (n_potentials + n_solar,)
        Flux that each row belongs to, see `crab.physics.conditions`.
    n_quiet : int
    """

    names: tuple[str, ...]
    slots: tuple[tuple[int, int], ...]
    kinds: np.ndarray
    kind: np.ndarray
    marks: np.ndarray
    threshold_ev: float
    rates_hz: np.ndarray
    fluxes_cm2: np.ndarray
    n_quiet: int

    @property
    def kind_rates_hz(self) -> np.ndarray:
        """Rate of each kind in each row of `rates_hz`, shape (n_rows, n_kinds)."""
        own = self.kind >= 0
        return np.stack(
            [np.bincount(self.kind[own], r[own], len(self.kinds)) for r in self.rates_hz]
        )


def rates(
    simulator: Simulator, environments: list[Environment], potentials_mv: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rates of a library's events in quiet times and in solar events.

    Parameters
    ----------
    simulator : Simulator
    environments : list of Environment
        Their solar events are taken; the first one lends its interstellar spectra.
    potentials_mv : ndarray, shape (n,)

    Returns
    -------
    rates_hz : ndarray of float32, shape (n + n_solar, n_events)
    fluxes_cm2 : ndarray, shape (n + n_solar,)
    n_quiet : int

    Raises
    ------
    CrabError
        If the first environment has no helmod_2017 spectra.
    """
    first = environments[0]
    if first.lis != "helmod_2017":
        raise CrabError(
            f"train_events.environments[0]: lis = {first.lis}: allowed here is helmod_2017"
        )
    library = simulator.library
    quiet = {"phi_nodes": (), "start_year": None, "solar_events": ()}
    out, fluxes = [], []
    for phi_mv in potentials_mv:
        environment = first.model_copy(update={**quiet, "phi_mv": float(phi_mv)})
        out.append(spectra.event_rates_hz(library, environment).astype(np.float32))
        fluxes.append(fluxes_cm2(environment, [0.0])[0][0])
    n_quiet = len(out)
    for event in {
        e.model_dump_json(): e for env in environments for e in env.solar_events
    }.values():
        environment = first.model_copy(update={**quiet, "solar_events": (event,)})
        out.append(spectra.component_rates_hz(library, environment)[-1].astype(np.float32))
        # Weight and flux belong together at any time while the event lasts.
        time_s = [event.onset_s + event.rise_s]
        weight = spectra.component_weights(environment, time_s)[-1, 0]
        fluxes.append(fluxes_cm2(environment, time_s)[1][0] / weight)
    return np.stack(out), np.array(fluxes), n_quiet


def tabulate(
    simulator: Simulator,
    environments: list[Environment],
    potentials_mv: np.ndarray,
    threshold_events_hz: float,
) -> EventTable:
    """Kinds, marks and rates of a library's events.

    Parameters
    ----------
    simulator : Simulator
        Of `crab.physics.montecarlo.prepare`.
    environments, potentials_mv
        See `rates`.
    threshold_events_hz : float
        Rate of hits on the wafer alone above the threshold, at the lowest potential.

    Returns
    -------
    EventTable
    """
    rates_hz, fluxes, n_quiet = rates(simulator, environments, potentials_mv)
    direct, columns = simulator.direct, simulator.direct["events"]
    n_det, n_events = simulator.detectors.sizes["detector"], simulator.library.sizes["event"]
    n_absorbers = len(simulator.sensor.parts)
    plate = simulator.plate
    names = () if plate is None else (*WAFER_MARKS, *NEAR_MARKS)
    if plate is None:
        slots = tuple((a, d) for a in range(n_absorbers) for d in range(n_det))
        slot, own = direct["absorber"] * n_det + direct["detector"], slice(None)
    else:
        slots = tuple((a, -1) for a in range(n_absorbers))
        # Two sensors of a wafer are hit at once next to never: the largest deposit counts.
        own = direct["detector"] == columns["detector_index"][direct["event"]]
        slot = direct["absorber"]
    first = len(names)
    names += tuple(f"absorber_{a}_{d}_ln_ev" if d >= 0 else f"absorber_{a}_ln_ev" for a, d in slots)
    has = np.zeros((n_events, len(names)), dtype=bool)
    marks = np.zeros((n_events, len(names)), dtype=np.float32)
    at = direct["event"][own], first + slot[own]
    has[at], marks[at] = True, np.log(direct["deposit_ev"][own])
    threshold_ev = np.inf
    if plate is not None:
        deposit_ev = columns["deposit_ev"].astype(float)
        alone, wet = ~has.any(axis=1), deposit_ev > 0
        order = np.argsort(-deposit_ev, kind="stable")
        running_hz = np.cumsum(np.where(alone, rates_hz[0], 0)[order], dtype=float)
        place = np.searchsorted(running_hz, threshold_events_hz)
        threshold_ev = float(deposit_ev[order[min(place, n_events - 1)]])
        detector = columns["detector_index"]
        for k, group in enumerate((alone & (deposit_ev > threshold_ev), ~alone & wet)):
            has[group, 3 * k : 3 * k + 3] = True
            marks[group, 3 * k] = np.log(deposit_ev[group])
            for j, axis in enumerate(("x_mm", "y_mm")):
                place_mm = columns[axis][group]
                if k:
                    place_mm = place_mm - simulator.detectors[axis].values[detector[group]]
                marks[group, 3 * k + 1 + j] = place_mm
    some = has.any(axis=1)
    kinds, found = np.unique(has[some], axis=0, return_inverse=True)
    kind = np.full(n_events, -1)
    kind[some] = found.ravel()
    return EventTable(names, slots, kinds, kind, marks, threshold_ev, rates_hz, fluxes, n_quiet)


def moments(table: EventTable, simulator: Simulator) -> dict:
    """Moments of the deposits in the wafer: how many of each size, and where.

    Parameters
    ----------
    table : EventTable
    simulator : Simulator
        With a wafer.

    Returns
    -------
    dict
        ``sums``, shape (2, n_orders, n_rows): rate times the deposit (in eV) to the powers
        `ORDERS` in each row of rates, for deposits below and above the threshold; ``pattern``,
        shape (2, n_orders, cells, cells): their share by place, all images alike.
    """
    columns = simulator.direct["events"]
    energy = columns["deposit_ev"].astype(float)
    wet = energy > 0
    side = simulator.plate.side_mm
    sums, patterns = [], []
    for group in (wet & (table.kind < 0), wet & (table.kind >= 0)):
        powers = np.stack([energy[group] ** n for n in ORDERS])
        sums.append(powers @ table.rates_hz[:, group].T.astype(float))
        x, y = columns["x_mm"][group], columns["y_mm"][group]
        images = _images(simulator)[group]
        maps = np.zeros((len(ORDERS), CELLS_PER_AXIS, CELLS_PER_AXIS))
        for image in range(8):
            allowed = images >> image & 1
            share = allowed / np.bitwise_count(images)
            cell = [
                np.clip(((v + side / 2) / side * CELLS_PER_AXIS).astype(int), 0, CELLS_PER_AXIS - 1)
                for v in wafer.mirror(x, y, np.full(len(x), image))
            ]
            for n, power in enumerate(powers):
                weight = power * table.rates_hz[0, group] * share
                np.add.at(maps[n], tuple(cell), weight)
        total = maps.sum(axis=(1, 2), keepdims=True)
        patterns.append(np.divide(maps, total, out=np.zeros_like(maps), where=total > 0))
    return {"sums": np.stack(sums), "pattern": np.stack(patterns)}


def _images(simulator: Simulator) -> np.ndarray:
    """Images that each event may come in, as bits."""
    library = simulator.library
    if "images" in library:
        return library["images"].values
    return np.ones(library.sizes["event"], dtype=np.uint8)


def draw(table: EventTable, simulator: Simulator, n_draws: int, rng) -> dict[str, np.ndarray]:
    """Events to learn from: kinds about alike, events of a kind by their rates.

    Half of the draws go to the commonest kind; the others share the rest by the root of their
    rates, so that rare hits on sensors are learned as well as the flood.

    Parameters
    ----------
    table : EventTable
    simulator : Simulator
    n_draws : int
        About; shared by the rows of rates, solar events together as much as a quarter of the quiet.
    rng : numpy.random.Generator

    Returns
    -------
    dict
        Per draw: ``kind``, ``marks`` (float32, images included), ``row`` of the rates, ``event``.
    """
    own = np.flatnonzero(table.kind >= 0)
    kind = table.kind[own]
    n_solar = len(table.rates_hz) - table.n_quiet
    parts = np.append(np.full(table.n_quiet, 1 / table.n_quiet), np.full(n_solar, 0.25 / n_solar))
    rows, events = [], []
    for row, part in enumerate(parts / parts.sum()):
        rate_hz = table.rates_hz[row, own].astype(float)
        kind_hz = np.bincount(kind, rate_hz, len(table.kinds))
        share = np.sqrt(kind_hz)
        if len(share) > 1:
            rest = np.arange(len(share)) != share.argmax()
            share[~rest] = share[rest].sum()
        each = np.divide(share, kind_hz, out=np.zeros_like(share), where=kind_hz > 0)
        cumulative = np.cumsum(rate_hz * each[kind])
        n = round(n_draws * part)
        at = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], "right")
        events.append(own[np.minimum(at, len(own) - 1)])
        rows.append(np.full(n, row))
    event = np.concatenate(events)
    marks = table.marks[event].copy()
    if simulator.plate is not None:
        marks = _turned(table, simulator, event, marks, rng.random(len(event)))
    return {
        "kind": table.kind[event],
        "marks": marks,
        "row": np.concatenate(rows),
        "event": event,
    }


def _turned(table, simulator, event, marks, chosen) -> np.ndarray:
    """Centroids in one of the images that each event may come in."""
    mask = _images(simulator)[event]
    bits = np.unpackbits(mask[:, None], axis=1, bitorder="little")
    nth = (chosen * bits.sum(axis=1)).astype(int)
    image = (np.cumsum(bits, axis=1) > nth[:, None]).argmax(axis=1)
    columns = simulator.direct["events"]
    x, y = wafer.mirror(columns["x_mm"][event], columns["y_mm"][event], image)
    has = table.kinds[table.kind[event]]
    detector = columns["detector_index"][event]
    for k in range(2):
        group = has[:, 3 * k]
        for j, (place, axis) in enumerate(((x, "x_mm"), (y, "y_mm"))):
            offset = simulator.detectors[axis].values[detector[group]] if k else 0.0
            marks[group, 3 * k + 1 + j] = place[group] - offset
    return marks
