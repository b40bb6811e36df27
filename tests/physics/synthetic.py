"""A small deposit library that follows the schema of `crab.physics.transport`, without Geant4.

Straight lines through the wafer, cosine-distributed, with the stopping power of a minimum
ionising particle times Z^2/beta^2; a few events also hit a TES. Good for testing what happens
after transport, not for physics.
"""

import numpy as np
import xarray as xr

from crab.params import Mission
from crab.physics import instrument, spectra

EV_PER_MM = 2.9e5  # minimum ionising proton in silicon
SPECIES = ("proton", "helium")


def library(
    mission: Mission,
    environment,
    rate_hz: float = 300.0,
    direct_rate_hz: float = 0.3,
    n_events: int = 4000,
    seed: int = 1,
    **attrs,
) -> xr.Dataset:
    """Library whose hit rate in `environment` is `rate_hz`, of which `direct_rate_hz` on TES."""
    rng = np.random.default_rng(seed)
    geometry = mission.geometry
    detectors = instrument.detectors(mission)
    n_direct = n_events // 10
    species = (rng.random(n_events) < 0.1).astype(np.int8)
    nucleons = np.where(species == 1, 4, 1)
    energy_mev = 10 ** rng.uniform(2.0, 4.3, n_events) * nucleons
    gamma = 1 + energy_mev / (938.3 * nucleons)
    stopping = EV_PER_MM * np.where(species == 1, 4, 1) / (1 - 1 / gamma**2)

    # Entry point, then cells along the projected track.
    half = geometry.wafer_side_mm / 2
    cosine = np.maximum(np.sqrt(rng.random(n_events)), 0.02)
    angle = rng.uniform(0, 2 * np.pi, n_events)
    start = rng.uniform(-half, half, (n_events, 2))
    hit_detector = rng.integers(0, detectors.sizes["detector"], n_direct)
    start[:n_direct, 0] = detectors["x_mm"].values[hit_detector]
    start[:n_direct, 1] = detectors["y_mm"].values[hit_detector]
    reach = geometry.wafer_thickness_mm * np.sqrt(1 / cosine**2 - 1)
    n_cells = 1 + (reach / 2.0).astype(int)
    event = np.repeat(np.arange(n_events), n_cells)
    place = (np.arange(len(event)) - np.repeat(np.cumsum(n_cells) - n_cells, n_cells) + 0.5) * (
        reach / n_cells
    )[event]
    x_mm = np.clip(start[event, 0] + place * np.cos(angle)[event], -half, half)
    y_mm = np.clip(start[event, 1] + place * np.sin(angle)[event], -half, half)
    deposit_ev = (stopping * geometry.wafer_thickness_mm / cosine / n_cells)[event]

    gold_ev = (
        stopping[:n_direct]
        * 7.6
        * geometry.absorbers["tes"].boxes[0].size_mm[2]
        / cosine[:n_direct]
    )
    rows = {
        "event_index": np.concatenate([event, np.arange(n_direct)]).astype(np.int32),
        "volume": np.concatenate([np.zeros(len(event)), np.ones(n_direct)]).astype(np.int8),
        "detector_index": np.concatenate([np.full(len(event), -1), hit_detector]).astype(np.int16),
        "x_mm": np.concatenate([x_mm, start[:n_direct, 0]]).astype(np.float32),
        "y_mm": np.concatenate([y_mm, start[:n_direct, 1]]).astype(np.float32),
        "deposit_ev": np.concatenate([deposit_ev, gold_ev]).astype(np.float32),
    }
    order = np.argsort(rows["event_index"], kind="stable")
    flux = np.empty(n_events)
    for index, name in enumerate(SPECIES):
        chosen = species == index
        flux[chosen] = spectra.differential_flux(environment, name, energy_mev[chosen])
    share = np.full(n_events, (rate_hz - direct_rate_hz) / (n_events - n_direct))
    share[:n_direct] = direct_rate_hz / n_direct
    out = xr.Dataset(
        {
            "species": ("event", species, {"flag_meanings": " ".join(SPECIES)}),
            "energy_mev": ("event", energy_mev),
            "aperture_m2_sr_mev": ("event", share / flux),
            **{name: ("deposit", values[order]) for name, values in rows.items()},
        }
    )
    out.attrs = {
        "mission": "litebird_lft",
        "split": "train",
        "physics_list": "none: straight lines of a test",
        "params_hash": "0" * 12,
        **attrs,
    }
    return out
