"""The `crab` command: what `dvc.yaml` calls, and a few things a user may want by hand."""

import argparse
import sys

from crab import notebooks, pages, params, paths
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


def _run(args) -> None:
    keys = {k: getattr(args, k) for k in ("mission", "environment") if getattr(args, k)}
    print(notebooks.run(args.notebook, args.profile, keys).relative_to(paths.root()))


def _source(args) -> None:
    for path in notebooks.write_sources():
        print(path.relative_to(paths.root()))


def _report(args) -> None:
    print(pages.build().relative_to(paths.root()))


def _params(args) -> None:
    settings = params.load(args.file)
    print(settings.model_dump_json(indent=1))


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
    run.set_defaults(do=_run)

    source = commands.add_parser("source", help="write the notebooks' code to build/source")
    source.set_defaults(do=_source)

    report = commands.add_parser("report", help="render the executed notebooks and the index page")
    report.set_defaults(do=_report)

    check = commands.add_parser("params", help="check params.yaml and print it")
    check.add_argument("file", nargs="?", help="another file to check")
    check.set_defaults(do=_params)
    return parser


if __name__ == "__main__":
    sys.exit(main())
