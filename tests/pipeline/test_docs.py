"""Pages for people: commands, names, examples and tables in them are those of the code."""

import argparse
import re
import shlex
from types import SimpleNamespace

import pytest
import yaml
from pydantic import BaseModel

from crab import CrabError, cli, descriptions, notebooks, params, paths
from crab.physics import instrument, montecarlo, readout, sensors, strata, transport, witness
from tests.physics import synthetic

PAGES = ("README.md", "REPRODUCING.md", "data/README.md")
PAGES += tuple(f"docs/{p.name}" for p in sorted((paths.root() / "docs").glob("*.md")))
MISSION_PAGE = "docs/add_a_mission.md"


def read(page: str) -> str:
    return (paths.root() / page).read_text()


def blocks(page: str, language: str = "") -> list[str]:
    """Fenced blocks of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def commands(page: str, program: str) -> list[tuple[list[str], bool]]:
    """Words after the program's name wherever a page calls it, and whether they are all there."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    found = []
    for line, whole in [*((x, True) for x in lines), *((x, False) for x in names([read(page)]))]:
        called = re.search(rf"(?:^|\s){program}\s+(\S.*)", line.split(" #")[0])
        if called:
            found.append((shlex.split(called[1]), whole and not re.search("…|[.]{3}", line)))
    return found


def rows(page: str, header: str) -> list[list[str]]:
    """Cells of all tables of a page whose first header is this one, without the header."""
    tables = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", read(page), re.M)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def names(texts: list[str]) -> list[str]:
    """What stands in backticks, outside of blocks."""
    prose = (re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M) for text in texts)
    return [name for text in prose for name in re.findall(r"`([^`\n]+)`", text)]


def minimal() -> dict:
    """The mission that the page offers to paste."""
    found = [b for b in blocks(MISSION_PAGE, "yaml") if "instrument:" in b]
    assert len(found) == 1
    return yaml.safe_load(found[0])


def extended(tmp_path, missions: dict, environments: dict) -> params.Params:
    """Our own params.yaml with more in it."""
    raw = yaml.safe_load((paths.root() / "params.yaml").read_text())
    raw["missions"] |= missions
    raw["environments"] |= environments
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return params.load(path)


def built(craft: params.Mission) -> sensors.Sensor:
    """All that can be made of a mission without Geant4."""
    detectors = instrument.detectors(craft)
    smoke = params.load().profiles["smoke"].deposits
    kinds = ("n_target_primaries", "n_shield_primaries", "n_aimed_primaries")
    counts = {kind: round(getattr(smoke, kind) * craft.effort) for kind in kinds}
    setup = transport.world_setup(craft.geometry, detectors, smoke.cell_mm, {})
    strata.make_plan(setup, smoke.model_copy(update=counts))
    readout.decimator(craft.internal_rate_hz, craft.sampling_rate_hz)
    return sensors.build(craft, detectors, 1e6)


def test_mission_to_paste_can_be_simulated(tmp_path):
    (name,) = minimal()
    craft = extended(tmp_path, minimal(), {}).missions[name]
    sensor = built(craft)
    assert instrument.detectors(craft).sizes["detector"] == 2
    assert sensor.power_convention == "optical_equivalent"
    assert sensor.parts == ("tod_direct",)
    # The noise it states is the one it describes.
    assert sensor.noise["net"].values == pytest.approx(
        sensor.noise["net_database"].values, rel=0.02
    )


def test_mission_of_the_walk_through_agrees_with_its_own_noise():
    sensor = built(params.load().missions["balloon_kid"])
    assert sensor.noise["net"].values == pytest.approx(
        sensor.noise["net_database"].values, rel=0.02
    )


def environments_of_page() -> dict:
    found = [b for b in blocks(MISSION_PAGE, "yaml") if "phi_mv:" in b]
    assert len(found) == 4  # steady, over time, solar event, ISO-DLR
    return {k: v for block in found for k, v in yaml.safe_load(block).items()}


def test_environments_to_paste_are_valid(tmp_path):
    added = environments_of_page()
    settings = extended(tmp_path, {}, added)
    assert set(added) <= set(settings.environments)


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    parser = cli._parser()
    (sub,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    settings = params.load()
    missions, environments = set(settings.missions), set(settings.environments)
    for block in (b for p in PAGES for b in blocks(p, "yaml")):
        content = yaml.safe_load(block)
        missions |= {k for k, v in content.items() if isinstance(v, dict) and "instrument" in v}
        environments |= {k for k, v in content.items() if isinstance(v, dict) and "phi_mv" in v}
    for words, whole in commands(page, "crab"):
        assert words[0] in sub.choices, words
        if not whole:
            options = sub.choices[words[0]]._option_string_actions
            assert {w for w in words if w.startswith("--")} <= set(options), words
            continue
        # A variable of a shell loop stands for a split.
        args = parser.parse_args(["test" if w == "$split" else w for w in words])
        if words[0] == "run":
            notebooks.find(args.notebook)
        assert getattr(args, "mission", None) in {None, *missions}, words
        assert getattr(args, "environment", None) in {None, *environments}, words
    targets = re.findall(r"^([a-z]+):", read("Makefile"), re.M)
    for words, _ in commands(page, "make"):
        assert words[0] in targets, words
    stages = yaml.safe_load(read("dvc.yaml"))["stages"]
    for words, _ in commands(page, "dvc"):
        assert words[0] in ("repro", "pull", "push", "commit", "remote", "stage"), words
        if words[0] == "repro" and len(words) > 1:
            stage, item = words[1].split("@")
            assert stage in stages and item.split("-")[0] in settings.profiles, words
            assert item.split("-")[1] in missions, words


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_point_to_exist(page):
    for name in re.findall(r"`((?:docs|crab|data|notebooks)/[\w/]+\.(?:md|py|ipynb))`", read(page)):
        assert (paths.root() / name).is_file(), name


def fields(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_keys_explained_are_those_of_a_mission():
    kinds = (params.Mission, params.InstrumentTable, descriptions.Detector, params.Geometry)
    kinds += (params.Absorber, params.Box, params.LinearSensor)
    kinds += (descriptions.Pulse, descriptions.Decay)
    explained = set(names([row[0] for row in rows(MISSION_PAGE, "key")]))
    assert explained <= set().union(*map(fields, kinds))
    text = set(names([read(MISSION_PAGE)]))
    detector = {"name", "pixel", "channel", "bandcenter_ghz", "bandwidth_ghz", "kind"}
    sections = {"geometry", "wafer_thermal", "sensor"}
    for kind in (*kinds, params.WaferThermal):
        assert fields(kind) - detector - sections <= text | {"amplitude"}, kind
    example = yaml.safe_dump(minimal())
    for key in explained - {"z_mm", "copies", "pitch_mm"}:
        assert f"{key}:" in example, key  # those three may be left out


def change(at: str, value, mission=True):
    """A fault: what to change in the page's mission, or its environment."""
    return SimpleNamespace(at=at.split("."), value=value, mission=mission)


NODES = [{"year": 2030, "phi_mv": 400}, {"year": 2031, "phi_mv": 450}]
FILM = "geometry.absorbers.film.boxes.0."
FAULTS = [
    change("hwp_rpm", None),
    change("sampling_rate", 5),
    change("sensor.pulses", {"die": {"part": "direct", "energy_share": 1.0, "decays": []}}),
    change("wafer_thermal", None),
    change("geometry.wafer_side_mm", None),
    change("geometry", None),
    change("geometry.wafer_side_mm", 8.0),
    change("geometry.shield_radius_mm", 12.0),
    change(FILM + "offset_mm", [0, 0, 0]),
    change(FILM + "size_mm", [10.0, 1.0, 0.001]),
    change("effort", 0.01),
    change("internal_rate_hz", 200.0),
    change("internal_rate_hz", 399.9977),
    change("instrument.detectors.1.name", "left"),
    change("my_minimum.w_index", 3.0, mission=False),
    change("my_iso.w_index", None, mission=False),
    change("my_rise.start_year", None, mission=False),
    change("my_rise.phi_nodes", NODES, mission=False),
    change("my_rise.phi_nodes", NODES[::-1], mission=False),
    change("my_event.solar_events.0.decay_s", 26300.0, mission=False),
]


def message(fault, tmp_path) -> str:
    missions, environments = minimal(), environments_of_page()
    (name,) = missions
    section = missions[name] if fault.mission else environments
    for key in fault.at[:-1]:
        section = section[int(key) if isinstance(section, list) else key]
    section[fault.at[-1]] = fault.value
    if fault.at == ["hwp_rpm"]:
        del section["hwp_rpm"]
    if fault.at[-1] == "pulses":
        section["pulses"]["die"]["decays"] = [{"amplitude": 1.0, "time_constant_s": 1e-3}]
    if fault.at[-1] == "decay_s":
        section["rise_s"] = 3e5
    with pytest.raises(CrabError) as caught:
        built(extended(tmp_path, missions, environments).missions[name])
    return str(caught.value)


def test_errors_are_quoted_as_they_are(tmp_path):
    said = [message(fault, tmp_path) for fault in FAULTS]
    for key, value in (("survey_missions", ["my_kidd"]), ("survey_missions", ["litebird_lft"])):
        raw = yaml.safe_load((paths.root() / "params.yaml").read_text())
        raw["missions"] |= minimal()
        (tmp_path / "lists.yaml").write_text(yaml.safe_dump(raw | {key: value}))
        with pytest.raises(CrabError) as caught:
            params.load(tmp_path / "lists.yaml")
        said.append(str(caught.value))
    # Geant4 would have to start for this one.
    said.append(read("crab/physics/geant4_world.py").replace("{material!r}", "'Al'"))
    quoted = names([row[0] for row in rows(MISSION_PAGE, "what it says")])
    for quote in quoted:
        assert any(all(part in text for part in quote.split("…")) for text in said), quote
    for text in said:
        assert any(all(part in text for part in quote.split("…")) for quote in quoted), text


def test_readme_lists_all_missions_environments_and_notebooks():
    settings, listed = params.load(), set(names([read("README.md")]))
    assert set(settings.missions) | set(settings.environments) <= listed
    stems = {p.stem for p in (paths.root() / "notebooks").glob("[0-9]*.ipynb")}
    assert {name for name in listed if re.match(r"\d\d_\w+$", name)} == stems
    assert set(names([row[0] for row in rows("README.md", "notebook")])) == stems


def test_datasheet_lists_the_training_sets():
    settings = params.load()
    durations = settings.profiles["smoke"].simulate_tod
    expected = []
    for name in (*settings.active_missions, *settings.survey_missions):
        active = name in settings.active_missions
        effort = settings.missions[name].effort
        expected.append(
            [
                f"`{name}`",
                "all active ones" if active else f"`{settings.survey_environment}`",
                *(f"{getattr(durations, f'{s}_duration_s') * effort:.0f}" for s in paths.SPLITS),
                "yes" if active else "no",
            ]
        )
    assert rows("data/README.md", "mission") == expected
    text = " ".join(read("data/README.md").split())
    listed = re.search(r"Active environments: (.*?)\. Networks learn `(\w+)`", text)
    assert names([listed[1]]) == settings.active_environments
    assert listed[2] == settings.training_environment
    full = settings.profiles["full"].simulate_tod
    lengths = [f"{getattr(full, f'{s}_duration_s'):.0f}" for s in paths.SPLITS]
    assert f"{lengths[0]}, {lengths[1]} and {lengths[2]} s" in text


def test_dictionary_has_every_name_of_our_files():
    settings = params.load()
    craft, sky = settings.missions["litebird_lft"], settings.environments["litebird_2032"]
    cube, truth = montecarlo.simulate(
        synthetic.library(craft, sky, n_events=400),
        craft,
        sky,
        duration_s=5.0,
        progress=False,
        mission_name="litebird_lft",
        environment_name="litebird_2032",
        seed=1,
        split="train",
        direct_hits="linear",
    )
    text = read("data/README.md")
    cube_section, library, hits, _ = re.split(
        r"^## (?:Deposit library|Truth table|Datasheet)$", text, flags=re.M
    )
    known = names([cube_section])
    assert set(map(str, cube.variables)) | set(cube.attrs) <= set(known)
    assert set(map(str, truth.variables)) <= set(names([hits]))
    # What the dictionary calls a column is one.
    assert set(names([r[0] for r in rows("data/README.md", "variable")])) == set(cube.data_vars)
    assert set(names([r[0] for r in rows("data/README.md", "coordinate")])) == set(cube.coords)
    attributes = set(names([r[0] for r in rows("data/README.md", "attribute")]))
    others = {"history", "source", "generator", "model_sha256", "realisation"}  # of other cubes
    assert attributes - others == set(cube.attrs)
    columns = [r[0] for r in rows("data/README.md", "name")]
    in_library = [c for c in columns if f"| {c} |" in library]
    in_truth = [c for c in columns if f"| {c} |" in hits]
    assert set(names(in_truth)) == set(map(str, truth.variables))
    deposits = {"event_index", "volume", "detector_index", "x_mm", "y_mm", "deposit_ev"}
    events = set(witness.PER_EVENT)
    assert set(names(in_library)) == deposits | events
    written = read("crab/physics/transport.py")
    for name in re.findall(
        r'^        "(\w+)": ', written.split("ds.attrs = {")[1].split("}")[0], re.M
    ):
        assert f"`{name}`" in library, name
