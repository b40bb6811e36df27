"""Handle on a Geant4 worker process, seen from the side that asks."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from crab.errors import CrabError
from crab.physics import geant4_worker

COMMAND = (sys.executable, "-m", "crab.physics.geant4_worker")
_TAIL_LINES = 12


class WorkerDied(Exception):
    """A worker ended in the middle of a batch: ``reason`` and the end of what it printed."""

    def __init__(self, reason: str, tail: str):
        super().__init__(f"{reason}; the last lines that it printed:\n{tail}")


def installed_version() -> str:
    """Version of the installed ``geant4-pybind``.

    Raises
    ------
    CrabError
        If it is not installed.
    """
    try:
        return metadata.version("geant4-pybind")
    except metadata.PackageNotFoundError:
        raise _cannot_start("the package geant4-pybind is not installed", "") from None


class Worker:
    """One initialised Geant4 in its own process; a context manager.

    Parameters
    ----------
    setup : dict
        See `crab.physics.transport.world_setup`.

    Attributes
    ----------
    physics_list, geant4_version : str
        What runs there.

    Raises
    ------
    CrabError
        If Geant4 is missing or does not start; the message says what to do.
    """

    def __init__(self, setup: dict):
        if not hasattr(os, "fork"):
            raise _cannot_start("transport needs Linux or macOS", "")
        self._folder = tempfile.TemporaryDirectory(
            prefix="crab-geant4-", ignore_cleanup_errors=True
        )
        self._log = Path(self._folder.name) / "stderr.txt"
        scratch = Path(self._folder.name) / "data"
        scratch.mkdir()
        # One thread: the workers share the cores, and a process with threads should not fork.
        environ = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                start_new_session=True,  # Ctrl-C reaches the one who waits, who then closes this
            )
        try:
            hello = self._ask(json.dumps(setup | {"scratch": str(scratch)}).encode())
        except WorkerDied as died:
            self.close()
            raise _cannot_start("its process ended while it started", str(died)) from None
        hello = json.loads(hello)
        self.physics_list, self.geant4_version = hello["physics_list"], hello["geant4_version"]

    def track(self, primaries: np.ndarray, seed: int) -> np.ndarray:
        """Track primaries.

        Parameters
        ----------
        primaries : ndarray, shape (n, 9)
            As `crab.physics.geant4_world.World.run` takes them.
        seed : int
            Geant4's seed, in [1, 2**31).

        Returns
        -------
        ndarray of `crab.physics.geant4_worker.DEPOSIT_DTYPE`

        Raises
        ------
        WorkerDied
            If the process ends before it answers.
        """
        answer = self._ask(geant4_worker.pack(primaries=primaries, seed=np.array(seed)))
        return geant4_worker.unpack(answer)["deposits"]

    def close(self) -> None:
        """End the process and what it forked, and remove its files."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, message: bytes) -> bytes:
        try:
            geant4_worker.send(self._process.stdin, message)
            answer = geant4_worker.receive(self._process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise WorkerDied(_reason(self._process.wait()), self._tail())
        return answer

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n".join(line for line in lines[-_TAIL_LINES:] if line.strip())


def _reason(code: int) -> str:
    number = -code if code < 0 else code - 128
    try:
        return f"exit code {code} ({signal.Signals(number).name})"
    except ValueError:
        return f"exit code {code}"


def _cannot_start(what: str, detail: str) -> CrabError:
    return CrabError(
        f"Geant4 could not be started: {what}. Install it with `pip install geant4-pybind` (wheels "
        "for Linux x86_64 and macOS; on Windows use WSL). Data sets are not needed; if "
        f"{', '.join(geant4_worker.DATASETS)} or GEANT4_DATA_DIR are set, they must hold the "
        f"official ones of this version. {detail}"
    )
