"""Speed of whole-mission generation: every generator on disk, the Monte Carlo, and the machine.

One run measures all, so that ratios hold although the machine may be busy. Works on TensorFlow, or
with ``KERAS_BACKEND=jax`` on a GPU; what needs files or packages that are not there is left out
with a row that says so. ``python -m benchmarks.streaming`` prints this part alone.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.machine import seconds
from crab import params, paths, seeds
from crab.errors import CrabError
from crab.generators import base
from crab.metrics import running

MISSION, ENVIRONMENT = "litebird_lft", "litebird_2032"
PROFILES = ("full", "smoke")  # the first that has the model
WAFER_DETECTORS, FOCAL_PLANE_DETECTORS = 216, 4508
MISSION_S = 3 * 365.25 * 86400.0
_BLOCKS = 8  # of 8192 samples
_SAMPLES = 8192 * _BLOCKS
_START = 8192 * 1000
_WINDOWED = "gan_reference"  # of the windowed ones the one whose network is timed alone
_SLOW_S = 5.0  # a request that takes longer is not repeated
_DRAWS = "machine: Philox normal draws"


def rows(settings: params.Params) -> list[tuple]:
    """Machine, statistics, Monte Carlo, then each generator of the registry that is on disk."""
    draws, statistics = _draws_per_s(), _statistics_per_s()
    made = [
        (_DRAWS, draws, "1/s, one core", None, None),
        (
            "survey: statistics",
            statistics,
            "detector samples/s, one core",
            *_over(statistics, draws),
        ),
    ]
    reference = None
    try:
        n_det, tod_hz, spent = _monte_carlo(settings)
        reference = spent / _SAMPLES / n_det
        made += _speed("Monte Carlo after Geant4", n_det, tod_hz, spent, draws, None)
    except (ImportError, CrabError) as error:
        made.append(_left_out("Monte Carlo after Geant4", error))
    for name in base.names():
        try:
            profile, generator = _ready(name, settings)
        except (ImportError, CrabError) as error:
            made.append(_left_out(name, error))
            continue
        made += _generator(f"{name} ({profile})", generator, draws, reference)
    return made


def _over(value: float, draws: float) -> tuple[str, float]:
    return _DRAWS, value / draws


def _left_out(what: str, error: Exception) -> tuple:
    return (f"{what}: left out, {type(error).__name__}", None, None, None, None)


def _draws_per_s() -> float:
    n = 2**22
    spent = seconds(lambda: seeds.rng(1, "speed").standard_normal(n, dtype=np.float32), 3)
    return n / spent


def _statistics_per_s() -> float:
    tod = 1e-16 * seeds.rng(1, "tod").standard_normal((12, 2**17), dtype=np.float32)
    thresholds = tuple((-k * 1e-16,) * len(tod) for k in (3, 5, 7))
    measures = running.Measures(19.1, 1024, thresholds, 5, (2.0, 4.0))
    return tod.size / seconds(lambda: running.chunk(tod, 0, measures), 3)


def _monte_carlo(settings: params.Params) -> tuple[int, float, float]:
    """Detectors, sampling rate and time for `_SAMPLES` samples of one stretch."""
    from crab import io
    from crab.physics import montecarlo

    mission = settings.missions[MISSION]
    simulator = montecarlo.prepare(
        io.open_table(paths.deposits("smoke", MISSION, "test")),
        mission,
        settings.environments[ENVIRONMENT],
        mission_name=MISSION,
        environment_name=ENVIRONMENT,
        seed=settings.seed,
        split="test",
    )
    n_det = len(simulator.samples(0, 10)["tod"])
    spent = seconds(lambda: simulator.samples(0, _SAMPLES))
    return n_det, mission.sampling_rate_hz, spent


def _ready(name: str, settings: params.Params):
    if not hasattr(base.get(name), "load"):
        return "smoke", base.ready(name, "smoke", MISSION, ENVIRONMENT, settings)
    for profile in PROFILES:
        if paths.model(profile, MISSION, name).is_file():
            return profile, base.ready(name, profile, MISSION, ENVIRONMENT, settings)
    raise CrabError(f"{name}: no model on disk")


def _generator(label: str, generator, draws: float, reference: float | None) -> list[tuple]:
    """Whole chain, with writing, and the network alone in several ways of running it."""
    recorder = _record_model(generator)

    def ask(n_samples):
        return generator.sample(ENVIRONMENT, _START, n_samples, 1)

    tod = ask(8192)  # compiles
    spent = seconds(lambda: ask(_SAMPLES))
    if spent < _SLOW_S:
        spent = seconds(lambda: ask(_SAMPLES), 3)
    device = _device() if hasattr(generator, "load") else "numpy"
    label = f"{label}, {device}"
    n_det, tod_hz = len(tod), generator.record["sampling_rate_hz"]
    made = _speed(label, n_det, tod_hz, spent, draws, reference)
    tod = ask(_SAMPLES) if spent < _SLOW_S else np.tile(tod, _BLOCKS)
    try:
        written = spent + _write_s(tod)
        what = f"{label}: generate and write Zarr"
        rate = tod.size / written
        made.append((what, rate, "detector samples/s", "not written", spent / written))
    except ImportError as error:
        made.append(_left_out(f"{label}: writing", error))
    alone = generator.name == _WINDOWED or not generator.windowed
    if recorder and recorder.inputs is not None and alone:
        made += _ways(label, recorder, n_det)
    return made


def _speed(label, n_det, tod_hz, spent, draws, reference) -> list[tuple]:
    """Rate, its ratios, and what that means for missions."""
    each = spent / _SAMPLES / n_det
    # A generator knows its subset of detectors; larger sets are subsets one after another.
    days = {n: each * n * MISSION_S * tod_hz / 86400 for n in (n_det, FOCAL_PLANE_DETECTORS)}
    faster = ("Monte Carlo, same run", each / reference) if reference else (None, None)
    return [
        (f"{label}: {n_det} detectors", 1 / each, "detector samples/s", *_over(1 / each, draws)),
        (f"{label}: {n_det} detectors", each * n_det * tod_hz, "time / TOD length", *faster),
        (
            f"{label}: {WAFER_DETECTORS} detectors, in subsets",
            each * WAFER_DETECTORS * tod_hz,
            "time / TOD length",
            None,
            None,
        ),
        (
            f"{label}: 3 years, {n_det} detectors",
            24 * days[n_det],
            "h",
            "goal 1 h",
            24 * days[n_det],
        ),
        (
            f"{label}: 3 years, focal plane, in subsets",
            days[FOCAL_PLANE_DETECTORS],
            "d",
            None,
            None,
        ),
    ]


def _write_s(tod: np.ndarray) -> float:
    import zarr
    from zarr.codecs import BloscCodec

    with tempfile.TemporaryDirectory() as folder:

        def write():
            array = zarr.create_array(
                Path(folder) / "tod.zarr",
                shape=tod.shape,
                dtype=tod.dtype,
                chunks=tod.shape,
                compressors=BloscCodec(cname="lz4", shuffle="shuffle"),
                overwrite=True,
            )
            array[:] = tod

        return seconds(write, 3)


class _Recorder:
    """Stands in for a generator's model and remembers one input of it."""

    def __init__(self, model):
        self.model, self.inputs = model, None

    def predict_on_batch(self, x):
        self.inputs = x
        return self.model.predict_on_batch(x)

    def __call__(self, *args, **keywords):
        return self.model(*args, **keywords)

    def __getattr__(self, name):
        return getattr(self.model, name)


def _record_model(generator) -> _Recorder | None:
    if not hasattr(generator, "model"):
        return None
    generator.model = _Recorder(generator.model)
    return generator.model


def _device() -> str:
    from crab.generators.backend import NAME, has_accelerator

    return f"{NAME}, {'accelerator' if has_accelerator() else 'CPU'}"


def _ways(label: str, recorder: _Recorder, n_det: int) -> list[tuple]:
    """The network alone, on one input of the generator's own."""
    from crab.generators.backend import NAME

    model, x = recorder.model, recorder.inputs
    ways = {"predict_on_batch": model.predict_on_batch}
    if NAME == "tensorflow":
        import tensorflow as tf

        ways["eager"] = lambda x: model(x, training=False)
        for way, xla in (("tf.function", False), ("XLA", True)):
            ways[way] = tf.function(lambda x: model(x, training=False), jit_compile=xla)
    else:
        import jax

        variables = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        forward = jax.jit(lambda x: model.stateless_call(variables, others, x, training=False)[0])
        ways["jit"] = forward
    made, first, output_size = [], None, None
    for way, call in ways.items():
        try:
            output_size = np.asarray(call(x)).size  # compiles
        except Exception as error:  # an operation that a compiler does not know
            made.append(_left_out(f"{label}: network alone, {way}", error))
            continue
        spent = seconds(lambda call=call: np.asarray(call(x)), 5)
        rate = output_size / spent
        first = first or rate
        made.append(
            (
                f"{label}: network alone, {way}",
                rate,
                "output values/s",
                "predict_on_batch",
                rate / first,
            )
        )
    return made


def main() -> None:
    for what, value, unit, reference, ratio in machine.rows() + rows(params.load()):
        number = "" if value is None else f"{value:.4g} {unit}"
        print(f"{what:75} {number:40}" + (f"{ratio:.4g} x {reference}" if reference else ""))


if __name__ == "__main__":
    main()
