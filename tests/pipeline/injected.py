"""A generator without files, and observations of litebird_sim, for tests."""

import litebird_sim as lbs
import numpy as np
import xarray as xr

from crab import params, seeds
from crab.physics import instrument, readout

MISSION, SKY, RATE_HZ = "litebird_lft", "litebird_2032", 19.1
_BLOCK = 500
_IMO = lbs.Imo(flatfile_location=lbs.PTEP_IMO_LOCATION)


def detectors() -> xr.Dataset:
    """The 12 detectors of litebird_lft with what leads to K_CMB, loop gain 10."""
    craft = params.load().missions[MISSION]
    table = instrument.detectors(craft)
    power = readout.power_per_kelvin_w(
        table["bandcenter_ghz"], table["bandwidth_ghz"], craft.sensor.optical_efficiency
    )
    return table.assign_coords(power_per_kelvin_w=("detector", power), joule_gain=-10 / 11)


class Pulses:
    """White noise of 0.1 fW and a pulse of -5 fW in all detectors at the start of every block.

    Joule power, as of a TES: hits are negative.
    """

    name = "pulses"
    windowed = False

    def __init__(self):
        self.detectors = detectors()
        self.record = {
            "mission": MISSION,
            "environment": SKY,
            "detectors": self.detectors["detector"].values.tolist(),
            "sampling_rate_hz": RATE_HZ,
            "power_convention": "joule",
        }

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        out = np.empty((self.detectors.sizes["detector"], n_samples), dtype=np.float32)
        stop = start_sample + n_samples
        for block in range(start_sample // _BLOCK, -(-stop // _BLOCK)):
            rng = seeds.rng(seed, environment, "pulses", block=block)
            values = 1e-16 * rng.standard_normal((len(out), _BLOCK), dtype=np.float32)
            values[:, 0] -= 5e-15
            low, high = max(start_sample, block * _BLOCK), min(stop, (block + 1) * _BLOCK)
            part = slice(low - block * _BLOCK, high - block * _BLOCK)
            out[:, low - start_sample : high - start_sample] = values[:, part]
        return out


class QuietPulses(Pulses):
    """The same, known to be without the noise of the detectors."""

    def background(self, *request) -> np.ndarray:
        return self.sample(*request)


def infos(names, rate_hz: float = RATE_HZ, **more) -> list[lbs.DetectorInfo]:
    """Detectors of litebird_sim."""
    common = {"sampling_rate_hz": rate_hz, "wafer": "L01", "net_ukrts": 100.0}
    common |= {"bandcenter_ghz": 140.0, "bandwidth_ghz": 42.0, **more}
    return [lbs.DetectorInfo(name=name, **common) for name in names]


def simulation(names, *, n_obs: int = 1, duration_s: float = 1000.0, **more) -> lbs.Simulation:
    """A simulation of litebird_sim, in memory, with observations."""
    sim = lbs.Simulation(
        base_path=None,
        start_time=more.pop("start_time", 0.0),
        duration_s=duration_s,
        random_seed=1,
        imo=_IMO,
    )
    tods = more.pop("tods", None)
    options = {} if tods is None else {"tods": tods}
    sim.create_observations(infos(names, **more), num_of_obs_per_detector=n_obs, **options)
    return sim


def joined(sim, what: str = "tod") -> np.ndarray:
    """One TOD of all observations, shape (n_det, n_samples)."""
    return np.concatenate([getattr(obs, what) for obs in sim.observations], axis=1)
