"""The pipeline's description agrees with the code: dependencies, parameters, outputs."""

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from crab import notebooks, params, paths

# They show or carry results but change no number, and a heavy stage should not rerun for them.
# Values of params.yaml are tracked key by key, so its reader is among them.
PRESENTATION = {"errors", "notebooks", "pages", "params", "paths", "plots", "progress"}
PRESENTATION |= {"provenance", "report", "__init__"}


@cache
def pipeline():
    return yaml.safe_load((paths.root() / "dvc.yaml").read_text())["stages"]


def notebook_stages():
    return {k: v for k, v in pipeline().items() if v["cmd"].startswith("crab run")}


def smoke() -> params.Profile:
    return params.load().profiles["smoke"]


def imported(source: str) -> set[str]:
    """Modules of crab that a piece of code imports, as paths below crab/ without ``.py``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module] + [f"{node.module}.{a.name}" for a in node.names]
        found |= {n.removeprefix("crab.").replace(".", "/") for n in names if n.startswith("crab")}
    return {f for f in found if module(f).is_file()}


def module(name: str) -> Path:
    folder = paths.root() / "crab"
    return folder / f"{name}.py" if name != "crab" else folder / "__init__.py"


def closure(source: str) -> set[str]:
    """All modules below crab/ that the code reaches, less `PRESENTATION`."""
    reached, queue = set(), imported(source)
    # A package's __init__ runs when any of its modules is imported.
    while queue:
        name = queue.pop()
        if name in reached or name in PRESENTATION or name == "crab":
            continue
        reached.add(name)
        queue |= imported(module(name).read_text())
        package = name.rsplit("/", 1)[0] + "/__init__"
        if "/" in name and module(package).is_file() and module(package).read_text().strip():
            queue.add(package)
    return reached


def worker_modules(names: set[str]) -> set[str]:
    """Modules that others start as ``python -m crab....`` and so never import."""
    started = set()
    for name in names:
        for found in re.findall(r"[\"']crab\.([\w.]+)[\"']", module(name).read_text()):
            if module(found.replace(".", "/")).is_file():
                started.add(found.replace(".", "/"))
    return started


@pytest.mark.parametrize("stage", sorted(notebook_stages()))
def test_dependencies_are_exactly_the_modules_used(stage):
    spec = notebook_stages()[stage]
    stem = spec["cmd"].split()[2]
    needed = closure(notebooks.code_cells(notebooks.find(stem)))
    for name in worker_modules(needed):
        needed |= {name} | closure(module(name).read_text())
    listed = {
        d.removeprefix("crab/").removesuffix(".py") for d in spec["deps"] if d.endswith(".py")
    }
    listed = {d for d in listed if not d.startswith("build/")}
    assert listed == needed


def test_streaming_gan_depends_on_the_modules_that_train_it():
    listed = [d for d in pipeline()["train_stream"]["deps"] if d.endswith(".py")]
    needed = closure("from crab.generators import stream_training")
    assert sorted(listed) == sorted(f"crab/{name}.py" for name in needed)


@pytest.mark.parametrize("stage", sorted(notebook_stages()))
def test_stage_depends_on_its_notebook_and_its_parameters(stage):
    spec = notebook_stages()[stage]
    stem = spec["cmd"].split()[2]
    assert f"build/source/{stem}.py" in spec["deps"]
    assert "seed" in spec["params"]
    section = notebooks.section(stem)
    key = f"profiles.${{item.profile}}.{section}"
    if "model" in spec["matrix"]:
        key += ".${item.model}"
        assert set(spec["matrix"]["model"]) <= set(getattr(smoke(), section))
    assert key in spec["params"] or not hasattr(smoke(), section)
    assert ("--mission ${item.mission}" in spec["cmd"]) == ("mission" in spec["matrix"])
    # One environment is trained on; the others are simulated and explored.
    trained = "--environment ${training_environment}" in spec["cmd"]
    assert trained == ("training_environment" in spec["params"])
    assert ("--environment ${item.environment}" in spec["cmd"]) == ("environment" in spec["matrix"])


def test_source_stage_writes_every_notebook():
    written = {next(iter(out)) for out in pipeline()["source"]["outs"]}
    assert written == {
        f"build/source/{p.stem}.py" for p in (paths.root() / "notebooks").glob("[0-9]*.ipynb")
    }


def test_every_notebook_has_a_stage():
    run = {v["cmd"].split()[2] for v in notebook_stages().values()}
    assert run == {p.stem for p in (paths.root() / "notebooks").glob("[0-9]*.ipynb")}


def test_files_others_rely_on_are_outputs():
    """Stable names of the data: `crab.paths` and `dvc.yaml` say the same."""
    root = paths.root()
    keys = {"profile": "smoke", "mission": "litebird_lft", "environment": "litebird_2032"}
    outs = set()
    for spec in pipeline().values():
        models = spec.get("matrix", {}).get("model", [""])
        for out, model in itertools.product(spec.get("outs", []), models):
            name = out if isinstance(out, str) else next(iter(out))
            for key, value in {**keys, "model": model}.items():
                name = name.replace(f"${{item.{key}}}", value)
            name = name.replace("${training_environment}", keys["environment"])
            outs.add(name)
    generator = params.load().profiles["smoke"].generate.generator
    expected = [
        *(paths.deposits("smoke", "litebird_lft", s) for s in paths.SPLITS),
        *(paths.tod("smoke", "litebird_lft", "litebird_2032", s) for s in paths.SPLITS),
        *(paths.hits("smoke", "litebird_lft", "litebird_2032", s) for s in paths.SPLITS),
        *(
            paths.model("smoke", "litebird_lft", m)
            for m in (*smoke().train_vae, *smoke().train_gan, *smoke().conditional)
        ),
        paths.cube("smoke", "litebird_lft", "litebird_2032", generator),
    ]
    missing = {str(p.relative_to(root)) for p in expected} - outs
    assert not missing


@pytest.mark.parametrize("stage", ["conditional", "survey_conditional"])
def test_conditional_stages_wait_for_all_cubes_of_their_missions(stage):
    """DVC cannot take a list into dependencies, so the environments are written out there."""
    found = re.findall(
        r"data/tod/\S+?-(\S+)-(\w+)\.nc", "\n".join(notebook_stages()[stage]["deps"])
    )
    settings = params.load()
    simulated = {
        "conditional": settings.active_environments,
        "survey_conditional": ["${survey_environment}"],
    }[stage]
    assert sorted(found) == sorted(itertools.product(simulated, paths.SPLITS))


def test_kpis_wait_for_the_scorecards_of_all_conditional_generators():
    settings = params.load()
    found = re.findall(r"08_conditional-(\S+)-(\w+)", "\n".join(pipeline()["kpis"]["deps"]))
    stages = {
        "conditional": settings.active_missions,
        "conditional_gan": settings.active_missions,
        "survey_conditional": settings.survey_missions,
    }
    judged = [
        (mission, model)
        for stage, missions in stages.items()
        for mission in missions
        for model in notebook_stages()[stage]["matrix"]["model"]
    ]
    assert sorted(found) == sorted(judged)


def test_analytics_are_off():
    text = (paths.root() / ".dvc" / "config").read_text()
    assert "analytics = false" in text and "check_update = false" in text


def test_every_model_has_a_stage():
    run = {}
    for spec in notebook_stages().values():
        models = spec.get("matrix", {}).get("model", [])
        run.setdefault(notebooks.section(spec["cmd"].split()[2]), set()).update(models)
    for section, models in run.items():
        if models:
            assert models == set(getattr(smoke(), section)), section
