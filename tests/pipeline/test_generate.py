"""Missions on disk: resumable, never mixed, and the same bytes whoever computes them."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

import crab
import crab.mission
from crab import CrabError, cli, io, ledger, mission_source, mission_store
from tests.pipeline import mission_project
from tests.pipeline.mission_project import BLOCK, GENERATOR, NAMES, seconds

SHARD_MB = 2 * BLOCK * 3 * 4 / 1e6  # two chunks
# Slow enough to be killed in the middle.
CHILD = """
import sys, time
from crab import mission_source, mission_store
from tests.pipeline import test_generate

made = mission_source.tod
def slow(*request):
    time.sleep(0.1)
    return made(*request)

mission_source.tod = slow
test_generate.generate(sys.argv[1], {blocks})
"""


def generate(path, blocks: float, **options) -> Path:
    return mission_store.generate(
        path,
        *NAMES.values(),
        duration_s=seconds(blocks),
        progress=False,
        **{"generator": GENERATOR, "chunk_s": 1.0, "shard_mb": SHARD_MB, "seed": 2, **options},
    )


def content(store: Path) -> dict[str, str]:
    """Hash of every file."""
    files = (p for p in Path(store).rglob("*") if p.is_file())
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def shards(store: Path) -> dict[str, tuple]:
    """What tells whether a file was written again."""
    found = Path(store) / "tod" / "c" / "0"
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found.iterdir()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return mission_project.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.setenv("CRAB_ROOT", str(project))


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory):
    """Seven regions, the last one short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAB_ROOT", str(project))
        patch.setattr(os, "cpu_count", lambda: 1)
        return generate(tmp_path_factory.mktemp("stores") / "whole.zarr", 12.5)


@pytest.fixture(scope="module")
def cluster(project):
    """A scheduler and two workers, each a process."""
    from distributed import LocalCluster

    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAB_ROOT", str(project))  # workers look for the project too
        with LocalCluster(n_workers=2, **options) as cluster:
            yield cluster


def test_workers_with_another_project_refuse(tmp_path, project, monkeypatch):
    """As a cluster's would that find other models or another params.yaml."""
    source = crab.mission.plan(*NAMES.values(), generator=GENERATOR, duration_s=1.0).source
    other = mission_project.make(tmp_path, scale=2.0)
    monkeypatch.setenv("CRAB_ROOT", str(other))
    with pytest.raises(CrabError, match=f"in {other} is not the one that was opened in {project}"):
        mission_source.tod(source, 0, 10, 1)


def test_what_is_written_is_the_virtual_cube(undisturbed):
    cube = crab.open_mission(
        **NAMES, generator=GENERATOR, duration_s=seconds(12.5), chunk_s=1.0, seed=2
    )
    back = crab.open_tod(undisturbed)
    np.testing.assert_array_equal(back["tod"], cube["tod"])
    np.testing.assert_array_equal(back["time"], cube["time"])
    assert back.attrs == cube.attrs
    assert set(back.coords) == set(cube.coords)
    for name in cube.coords:
        np.testing.assert_array_equal(back[name], cube[name])
    assert len(shards(undisturbed)) == 7
    assert not ledger.unfinished_path(undisturbed).exists()


@pytest.mark.parametrize("n_threads", [2, 4])
def test_number_of_threads_changes_no_byte(undisturbed, tmp_path, monkeypatch, n_threads):
    monkeypatch.setattr(os, "cpu_count", lambda: n_threads)
    assert content(generate(tmp_path / "a.zarr", 12.5)) == content(undisturbed)


def test_processes_change_no_byte(undisturbed, tmp_path):
    assert content(generate(tmp_path / "a.zarr", 12.5, workers=2)) == content(undisturbed)


def test_a_cluster_changes_no_byte(undisturbed, tmp_path, cluster):
    path = generate(tmp_path / "a.zarr", 12.5, scheduler=cluster.scheduler_address)
    assert content(path) == content(undisturbed)
    with cluster.get_client() as client:
        cube = crab.open_mission(
            **NAMES, generator=GENERATOR, duration_s=seconds(4), chunk_s=1.0, seed=2
        )
        tod = client.compute(cube["tod"]).result()
    np.testing.assert_array_equal(tod, crab.open_tod(undisturbed)["tod"][:, : 4 * BLOCK])


def test_kill_and_resume(undisturbed, tmp_path):
    """SIGKILL in the middle: what was finished stays as it is, the rest follows."""
    path = tmp_path / "a.zarr"
    store = ledger.unfinished_path(path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(blocks=12.5), str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(crab.__file__).parents[1])},
    )
    deadline = time.monotonic() + 120
    while not (ledger.exists(store) and len(ledger.read(store)[1]) >= 2):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    _, done = ledger.read(store)
    assert 2 <= len(done) < 7
    for name in (path, store):
        with pytest.raises(CrabError, match=r"not finished: .* h are in a\.zarr\.unfinished"):
            crab.open_tod(name)
    before = shards(store)
    generate(path, 12.5)
    after = shards(path)
    assert {str(index) for index in done} <= set(before)
    assert all(after[str(index)] == before[str(index)] for index in done)
    assert content(path) == content(undisturbed)


def test_only_what_is_marked_counts(undisturbed, tmp_path, monkeypatch):
    """A cut line, a file of a killed write and a shard that was not marked are written again."""
    path = _stopped(tmp_path / "a.zarr", "3", monkeypatch)
    store = ledger.unfinished_path(path)
    _, done = ledger.read(store)
    assert sorted(done) == [0, 1, 2, 4]  # 4 was being computed when 3 failed
    record = store / "tod" / "ledger.jsonl"
    record.write_bytes(record.read_bytes()[:-5])
    where = store / "tod" / "c" / "0"
    (where / "5.0123.partial").write_bytes(b"cut")
    (where / "4").write_bytes(b"cut")
    assert sorted(ledger.read(store)[1]) == [0, 1, 2]
    before = shards(store)
    calls = _counted(monkeypatch)
    generate(path, 12.5)
    assert sorted(calls) == [block * BLOCK for block in range(6, 13)]
    assert all(shards(path)[name] == before[name] for name in "012")
    assert content(path) == content(undisturbed)


def test_full_disk_keeps_what_is_finished(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    with pytest.raises(CrabError, match="no space left on the disk; 4 finished regions are kept"):
        _stopped(path, "4", monkeypatch, expect=False)
    assert content(generate(path, 12.5)) == content(undisturbed)


def test_a_region_is_marked_after_it_is_on_the_disk(tmp_path, monkeypatch):
    synced, made = [], os.fsync

    def seen(descriptor):
        made(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    generate(tmp_path / "a.zarr", 4)
    kinds = [Path(p).name for p in synced if "/tod" in p]
    first = kinds.index("0")
    assert kinds[first : first + 2] == ["0", "0"]  # the shard 0, and its folder c/0
    marks = [i for i, kind in enumerate(kinds) if kind == "ledger.jsonl"]
    assert len(marks) == 2
    assert first + 1 < marks[0] and kinds.index("1") + 1 < marks[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "seed = 3 was asked for, the store was begun with 2"),
        ({"realisation": 1}, "realisation = 1 was asked for, the store was begun with 0"),
        ({"start_s": 100.0}, "start_sample = 1910 was asked for, the store was begun with 0"),
        ({"generator": "baseline_phase"}, "'baseline_phase' was asked for, .*'baseline_gaussian'"),
        ({"shard_mb": 9.0}, "region_samples = .* was asked for, the store was begun with 32768"),
        ({"blocks": 3}, "the store is for .* allowed are the same duration, a longer one"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_mixing_is_refused(undisturbed, tmp_path, monkeypatch, changes, message, finished):
    if finished:
        path, store = undisturbed, undisturbed
    else:
        path = _stopped(tmp_path / "a.zarr", "1", monkeypatch)
        store = ledger.unfinished_path(path)
    before = content(store)
    with pytest.raises(CrabError, match=message):
        generate(path, **{"blocks": 12.5, **changes})
    assert content(store) == before


def test_changed_facts_are_noticed(tmp_path):
    path = generate(tmp_path / "a.zarr", 1)
    record = path / "tod" / "ledger.jsonl"
    record.write_text(record.read_text().replace('"seed": 2', '"seed": 3'))
    with pytest.raises(CrabError, match="not those of facts_hash"):
        generate(path, 1, seed=3)


def test_longer_store_keeps_its_whole_regions(undisturbed, tmp_path, monkeypatch):
    path = generate(tmp_path / "a.zarr", 5)
    before = shards(path)
    calls = _counted(monkeypatch)
    assert generate(path, 5) == path
    assert calls == [] and shards(path) == before
    generate(path, 12.5)
    assert min(calls) == 4 * BLOCK  # the third region was short
    assert {k: shards(path)[k] for k in "01"} == {k: before[k] for k in "01"}
    assert content(path) == content(undisturbed)


def test_seeds_and_realisations_are_other_data(undisturbed, tmp_path):
    other = generate(tmp_path / "a.zarr", 2, seed=3)
    again = generate(tmp_path / "b.zarr", 2, realisation=1)
    tods = [crab.open_tod(p)["tod"][0, : 2 * BLOCK].values for p in (undisturbed, other, again)]
    corr = np.corrcoef(tods) - np.eye(3)
    assert abs(corr).max() < 5 / (2 * BLOCK) ** 0.5


def test_memory_does_not_grow_with_length(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    generate(tmp_path / "first.zarr", 2)  # imports
    peaks = []
    for blocks in (8, 64):
        tracemalloc.start()
        generate(tmp_path / f"{blocks}.zarr", blocks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 0.5 * 64 * BLOCK * 3 * 4


def test_nan_is_not_written(tmp_path, monkeypatch):
    made = mission_source.tod

    def broken(source, start_sample, n_samples, seed):
        tod = made(source, start_sample, n_samples, seed)
        tod[1, 5] = np.nan if start_sample == 3 * BLOCK else tod[1, 5]
        return tod

    monkeypatch.setattr(mission_source, "tod", broken)
    with pytest.raises(CrabError, match=f"NaN or infinity within samples {3 * BLOCK} to"):
        generate(tmp_path / "a.zarr", 4)
    assert "1" not in shards(tmp_path / "a.zarr.unfinished")


def test_what_is_missing_reads_as_nan(tmp_path, monkeypatch):
    """For those who open the folder without us."""
    path = _stopped(tmp_path / "a.zarr", "2", monkeypatch)
    tod = zarr.open_array(ledger.unfinished_path(path) / "tod", mode="r")
    assert np.isfinite(tod[:, : 4 * BLOCK]).all()
    assert np.isnan(tod[:, 8 * BLOCK :]).all()


def test_two_writers_are_refused(tmp_path, monkeypatch):
    path = _stopped(tmp_path / "a.zarr", "1", monkeypatch)
    with ledger.opened(ledger.unfinished_path(path)):
        with pytest.raises(CrabError, match="another process is writing to it"):
            generate(path, 12.5)


def test_foreign_folders_and_bad_numbers_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(CrabError, match=r"a\.zarr: exists, and was not written by this"):
        generate(tmp_path / "a.zarr", 1)
    for key, value in (("workers", 0), ("shard_mb", -1.0)):
        with pytest.raises(CrabError, match=f"{key} = {value}: allowed are"):
            generate(tmp_path / "b.zarr", 1, **{key: value})
    with pytest.raises(CrabError, match="workers and scheduler: give one"):
        generate(tmp_path / "b.zarr", 1, workers=1, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(CrabError, match="scheduler = 'nowhere://': no answer"):
        generate(tmp_path / "b.zarr", 1, scheduler="nowhere://")


def test_command(undisturbed, tmp_path, capsys):
    path = tmp_path / "a.zarr"
    words = ["generate", "--generator", GENERATOR, "--seed", "2", "--chunk-hours", "0.001"]
    words += ["--shard-mb", str(SHARD_MB), "--output", str(path)]
    assert cli.main([*words, "--hours", str(seconds(12.5) / 3600)]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == str(path)
    assert "h, 00:00 left" in out.err
    assert content(path) == content(undisturbed)
    assert cli.main([*words[:-1], str(tmp_path / "none.zarr"), "--realisation", "-1"]) == 2
    assert "realisation = -1" in capsys.readouterr().err
    back = io.open_tod(path)
    assert back.attrs["generator"] == GENERATOR


def _stopped(path: Path, shard: str, monkeypatch, expect: bool = True) -> Path:
    """A store whose disk is full when this shard is written."""
    made = os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/c/0/{shard}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "cpu_count", lambda: 1)
        if not expect:
            return generate(path, 12.5)
        with pytest.raises(CrabError, match="no space left"):
            generate(path, 12.5)
    return path


def _counted(monkeypatch) -> list[int]:
    made, first = mission_source.tod, []

    def counted(source, start_sample, n_samples, seed):
        first.append(start_sample)
        return made(source, start_sample, n_samples, seed)

    monkeypatch.setattr(mission_source, "tod", counted)
    return first
