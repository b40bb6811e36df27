"""The `crab` command: what `dvc.yaml` calls, and a few things a user may want by hand."""

import argparse
import sys
from pathlib import Path

from crab import params, paths
from crab.errors import CrabError


def main(argv: list[str] | None = None) -> int:
    """Entry point.

    Parameters
    ----------
    argv : list of str, optional
        Default: the command line.

    Returns
    -------
    int
        0; 2 for bad input, after one clear error.
    """
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except CrabError as error:
        print(f"crab: error: {error}", file=sys.stderr)
        return 2
    return 0


# Each command imports what it needs: some of it takes a second, or is not installed on a machine
# that only trains.


def _run(args) -> None:
    from crab import notebooks

    keys = {k: getattr(args, k) for k in ("mission", "environment", "model") if getattr(args, k)}
    print(notebooks.run(args.notebook, args.profile, keys).relative_to(paths.root()))


def _source(args) -> None:
    from crab import notebooks

    for path in notebooks.write_sources():
        print(path.relative_to(paths.root()))


def _report(args) -> None:
    from crab import pages

    print(pages.build().relative_to(paths.root()))


def _params(args) -> None:
    settings = params.load(args.file)
    print(settings.model_dump_json(indent=1))


def _simulate(args) -> None:
    from crab import io
    from crab.physics import montecarlo

    settings = params.load()
    mission = params.choose("mission", args.mission, settings.missions)
    if mission.geometry is None:
        raise CrabError(f"mission = {args.mission!r}: it has no geometry, its cubes are imported")
    sky = params.choose("environment", args.environment, settings.environments)
    profile = params.choose("profile", args.profile, settings.profiles)
    what = (io.open_table(paths.deposits(args.profile, args.mission, args.split)), mission, sky)
    options = {
        "duration_s": 3600 * args.hours,
        "start_sample": round(3600 * args.start_hours * mission.sampling_rate_hz),
        "mission_name": args.mission,
        "environment_name": args.environment,
        "seed": settings.seed,
        "split": args.split,
        "direct_hits": profile.simulate_tod.direct_hits,
    }
    print(io.write_zarr(montecarlo.lazy_cube(*what, **options), args.output))
    if args.truth:
        hits = montecarlo.truth_by_pieces(*what, **options)
        print(io.write_table_zarr(hits, args.truth))


def _generate(args) -> None:
    from crab import mission_store

    lengths_h = {"hours": 1.0, "days": 24.0, "years": 365.25 * 24.0}
    given = [getattr(args, k) * h for k, h in lengths_h.items() if getattr(args, k) is not None]
    print(
        mission_store.generate(
            args.output,
            args.mission,
            args.environment,
            workers=args.workers,
            scheduler=args.scheduler,
            shard_mb=args.shard_mb,
            generator=args.generator,
            profile=args.profile,
            wafer=args.wafer,
            seed=args.seed,
            realisation=args.realisation,
            duration_s=3600 * given[0] if given else None,
            start_s=3600 * args.start_hours,
            chunk_s=3600 * args.chunk_hours,
        )
    )


def _export(args) -> None:
    from crab.impact import cubes, export

    start_s = None if args.start_hours is None else 3600 * args.start_hours
    duration_s = None if args.hours is None else 3600 * args.hours
    cube = cubes.stretch(cubes.opened(args.cube), start_s, duration_s)
    if args.format == "toast":
        print(export.to_toast(cube, args.output))
        return
    if not args.file_hours > 0:
        raise CrabError(f"file-hours = {args.file_hours}: allowed are numbers > 0")
    per_file = max(1, round(3600 * args.file_hours * cube.attrs["sampling_rate_hz"]))
    files = export.to_litebird_sim(
        cube,
        args.output,
        n_files=-(-cube.sizes["time"] // per_file),
        variables=tuple(args.variables),
    )
    print(f"{files[0].parent}: {len(files)} files")


def _train(args) -> None:
    from crab.generators import streaming, training

    settings = params.load()
    if args.model in streaming.KINDS:
        if args.environment:
            raise CrabError(
                f"environment = {args.environment!r}: {args.model} follows any environment; "
                "params.yaml says which it is trained on"
            )
        what = (args.model, args.profile, args.mission, settings)
        path = streaming.train(*what, seed=args.seed, name=args.name)
        print(path.relative_to(paths.root()))
        return
    environment = args.environment or settings.training_environment
    print(
        training.train(
            args.model,
            args.profile,
            args.mission,
            environment,
            settings,
            seed=args.seed,
            name=args.name,
        ).relative_to(paths.root())
    )


def _search(args) -> None:
    from crab import search

    settings = params.load()
    profile = params.choose("profile", args.profile, settings.profiles)
    space = params.choose("model", args.model, profile.search)
    environment = args.environment or settings.training_environment
    found = search.search(
        args.model,
        args.profile,
        args.mission,
        environment,
        args.trials,
        settings,
        space,
        seed=args.seed,
    )
    done = found.trials.groupby("state").size()
    print(f"{len(found.trials)} trials: " + ", ".join(f"{n} {s}" for s, n in done.items()))
    if found.best:
        complete = found.trials[found.trials["state"] == "complete"]
        row = complete.loc[complete["objective"].idxmin()]
        print(f"best: trial {row['trial']}, objective {row['objective']:.4f}")
        for key, value in found.best.items():
            print(f"  {key}: {value}")
    print(found.csv.relative_to(paths.root()))


def _import(args) -> None:
    from crab import importing, mapping

    params.choose("profile", args.profile, params.load().profiles)
    key = (args.mission, args.environment, args.split)
    cube, truth = importing.read_with_truth(args.files, args.mapping, *key)
    n_hits = "no truth table" if truth is None else f"{truth.sizes['hit']} hits"
    duration_s = cube.sizes["time"] / cube.attrs["sampling_rate_hz"]
    print(f"{cube.sizes['detector']} detectors, {duration_s:.6g} s, {n_hits}")
    print(cube.attrs["history"])
    if args.check:
        print("no faults; nothing written")
        return
    files = [{"name": Path(f).name, "sha256": importing.sha256(f)} for f in args.files]
    layout = mapping.load(args.mapping).model_dump(exclude={"truth"})
    facts = {"imported": files, "mapping": layout}
    for path in importing.save(cube, truth, args.profile, force=args.force, **facts):
        print(path.relative_to(paths.root()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crab", description="Cosmic-ray background of space bolometers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a notebook with the values of a profile")
    run.add_argument("notebook", help="e.g. 06_train_gan or train_gan")
    run.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    run.add_argument("--mission", help="key of missions in params.yaml")
    run.add_argument("--environment", help="key of environments in params.yaml")
    run.add_argument("--model", help="key of the notebook's section in params.yaml")
    run.set_defaults(do=_run)

    source = commands.add_parser("source", help="write the notebooks' code to build/source")
    source.set_defaults(do=_source)

    report = commands.add_parser("report", help="render the executed notebooks and the index page")
    report.set_defaults(do=_report)

    check = commands.add_parser("params", help="check params.yaml and print it")
    check.add_argument("file", nargs="?", help="another file to check")
    check.set_defaults(do=_params)

    long = commands.add_parser(
        "simulate", help="simulate any stretch of a mission, longer than memory, into a Zarr folder"
    )
    long.add_argument("--mission", required=True, help="key of missions in params.yaml")
    long.add_argument("--environment", required=True, help="key of environments in params.yaml")
    long.add_argument("--hours", required=True, type=float, help="how long")
    long.add_argument("--start-hours", default=0.0, type=float, help="since the mission's start")
    long.add_argument("--truth", help="folder to make for the table of hits, such as hits.zarr")
    long.add_argument("--split", default="test", choices=paths.SPLITS, help="whose deposits")
    long.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    long.add_argument("--output", required=True, help="folder to make, such as day.zarr")
    long.set_defaults(do=_simulate)

    make = commands.add_parser(
        "generate", help="generate any part of a mission into a Zarr folder; the same goes on"
    )
    make.add_argument("--mission", default="litebird_lft", help="key of missions in params.yaml")
    make.add_argument("--environment", default="litebird_2032", help="key of environments there")
    make.add_argument("--generator", help="default: the profile's; or monte_carlo")
    length = make.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, help="how long; default: the whole mission")
    length.add_argument("--days", type=float)
    length.add_argument("--years", type=float)
    make.add_argument("--start-hours", default=0.0, type=float, help="since the mission's start")
    make.add_argument("--wafer", help="another one, for generators that can be moved")
    make.add_argument("--seed", type=int, help="default: seed of params.yaml")
    make.add_argument("--realisation", default=0, type=int, help="0, 1, ...: other particles")
    make.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    make.add_argument("--workers", type=int, help="processes; default: threads")
    make.add_argument("--scheduler", help="address of a running dask.distributed scheduler")
    make.add_argument("--chunk-hours", default=1.0, type=float, help="what is read at a time")
    make.add_argument("--shard-mb", default=32.0, type=float, help="size of a file")
    make.add_argument("--output", required=True, help="folder to make, such as year.zarr")
    make.set_defaults(do=_generate)

    give = commands.add_parser(
        "export", help="write a cube, or a part of it, as files of litebird_sim or TOAST"
    )
    give.add_argument("cube", metavar="CUBE", help="NetCDF file or Zarr folder")
    give.add_argument(
        "--format",
        required=True,
        choices=("litebird_sim", "toast"),
        help="litebird_sim: observations in HDF5, with flags; toast: what InjectCosmicRays reads",
    )
    give.add_argument("--hours", type=float, help="how long; default: to the cube's end")
    give.add_argument(
        "--start-hours", type=float, help="since the mission's start; default: the cube's"
    )
    give.add_argument(
        "--file-hours", default=6.0, type=float, help="of one observation; memory holds one"
    )
    give.add_argument(
        "--variables",
        nargs="+",
        default=["tod"],
        metavar="TOD",
        help="of the observations, such as tod_wafer tod_direct; default: tod",
    )
    give.add_argument("--output", required=True, help="folder to make")
    give.set_defaults(do=_export)

    train = commands.add_parser(
        "train", help="train a network without its notebook, on a machine with a GPU for example"
    )
    train.add_argument("model", help="key of train_vae, train_gan or train_events in params.yaml")
    train.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    train.add_argument("--mission", default="litebird_lft", help="key of missions in params.yaml")
    train.add_argument("--environment", help="default: training_environment of params.yaml")
    train.add_argument("--seed", type=int, help="default: seed of params.yaml")
    train.add_argument("--name", help="of the file, if not the model's: for more than one seed")
    train.set_defaults(do=_train)

    look = commands.add_parser(
        "search", help="search for good settings of a network; the same command goes on"
    )
    look.add_argument("model", help="key of search in params.yaml")
    look.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    look.add_argument("--mission", default="litebird_lft", help="key of missions in params.yaml")
    look.add_argument("--environment", help="default: training_environment of params.yaml")
    look.add_argument("--trials", default=20, type=int, help="in all, those done before included")
    look.add_argument("--seed", type=int, help="default: seed of params.yaml")
    look.set_defaults(do=_search)

    bring = commands.add_parser("import", help="take another simulation's TODs into a TOD cube")
    bring.add_argument("files", nargs="+", metavar="FILE", help="in the order of time")
    bring.add_argument("--mapping", required=True, help="YAML: how the files are laid out")
    bring.add_argument("--mission", required=True, help="key of missions in params.yaml")
    bring.add_argument("--environment", required=True, help="key of environments in params.yaml")
    bring.add_argument("--split", required=True, choices=paths.SPLITS)
    bring.add_argument("--profile", default="smoke", help="key of profiles in params.yaml")
    bring.add_argument("--check", action="store_true", help="list all faults, write nothing")
    bring.add_argument("--force", action="store_true", help="move an older cube aside")
    bring.set_defaults(do=_import)
    return parser


if __name__ == "__main__":
    sys.exit(main())
