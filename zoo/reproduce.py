"""The command ``reproduce.py``: lists the papers, re-measures their claims, writes the reports."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from zoo.claims import SCALES, Paper, UnknownPaperError, find_paper, papers, with_seeds
from zoo.environment import complain
from zoo.files import no_room

if TYPE_CHECKING:
    from zoo.engines import Engine
    from zoo.runner import Failures, Task

DESCRIPTION = "Re-measure the claims of papers; without a paper, list them with their last verdicts."
EXIT = """\
The exit status is 0 if every claim is reproduced, 1 if one is not reproduced or not measured, 2 after an error of the
user, 130 after Ctrl-C. Finished runs are kept in runs/ and never done twice; reports are written to reports/."""
FULL = "the disk is full ({}); free some of it, and the same command goes on with the runs that are left"


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


OPTIONS: dict[str, dict[str, Any]] = {
    "papers": {"nargs": "*", "metavar": "PAPER", "help": "whose claim is re-measured"},
    "--all": {"action": "store_true", "help": "every paper"},
    "--scale": {
        "choices": SCALES,
        "default": "small",
        "help": "small: minutes on two CPU cores (the default); full: the paper's own protocol",
    },
    "--seeds": {
        "type": _positive,
        "metavar": "N",
        "help": "seeds 0 to N-1 of every configuration, in place of the claim's own",
    },
    "--workers": {"type": _positive, "metavar": "N", "help": "runs at a time, one thread each (default: one per core)"},
    "--engine": {
        "choices": ("local", "ray"),
        "default": "local",
        "help": "processes on this machine (the default), or Ray tasks",
    },
    "--address": {"help": "a running Ray cluster; without it --engine ray starts one on this machine"},
    "--report-only": {"action": "store_true", "help": "run nothing, rebuild the reports from the finished runs"},
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        self.exit(complain(message))


def parser() -> Parser:
    """The options of the command."""
    parser = Parser("reproduce.py", description=DESCRIPTION, epilog=EXIT, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, option in OPTIONS.items():
        parser.add_argument(name, **option)
    return parser


def listing() -> str:
    """The papers with their claims and last verdicts."""
    lines = ["python reproduce.py PAPER [--scale full]    re-measure the claim of a paper; --help shows all options"]
    for paper in papers().values():
        lines += ["", f"{paper.name}: {paper.title}", f"  {paper.claim.statement}"]
        lines += [f"  {verdict}" for verdict in last_verdicts(paper)] or ["  not measured yet"]
    return "\n".join(lines)


def last_verdicts(paper: Paper) -> list[str]:
    """What the last reproduction said, one line for each scale."""
    from zoo.report import report_folder

    lines = []
    for scale in SCALES:
        path = report_folder(paper.name, scale) / "results.json"
        if path.is_file():
            report = json.loads(path.read_text(encoding="utf-8"))
            lines.append(f"{report['verdict']} ({scale} scale, {len(report['runs'])} runs; {path.parent}/report.md)")
    return lines


def main(args: Sequence[str]) -> int:
    """The command ``reproduce.py``.

    Args:
        args: The words after ``reproduce.py``.

    Returns:
        The exit status: 0 if every claim is reproduced, 1 if not, 2 after an error of the user, 130 after Ctrl-C.
    """
    try:
        options = parser().parse_args(args)
        if not options.papers and not options.all:
            if args:
                return complain("name a paper, or say --all; python reproduce.py lists the papers.")
            print(listing())
            return 0
        chosen = list(papers().values()) if options.all else [find_paper(name) for name in options.papers]
        if options.address and options.engine != "ray":
            return complain(f"--address {options.address} needs --engine ray, got --engine {options.engine}")
        if options.engine == "ray":
            from zoo.engines import check_ray

            check_ray()
    except SystemExit as end:
        return int(end.code or 0)
    except (UnknownPaperError, ImportError) as error:
        return complain(error)
    return reproduce(chosen, options)


def reproduce(chosen: Sequence[Paper], options: Any) -> int:
    """Execute what has not been done yet, judge the claims and write the reports.

    Args:
        chosen: The papers.
        options: What :func:`parser` has parsed.

    Returns:
        The exit status.
    """
    from zoo.console import console
    from zoo.report import Report
    from zoo.runner import Failures, on_real_data, task

    tasks = {}
    for paper in chosen:
        runs = paper.claim.runs(options.scale)
        runs = with_seeds(runs, options.seeds) if options.seeds else runs
        tasks[paper] = [task(on_real_data(run)) for run in runs]
    every = list({one.key: one for several in tasks.values() for one in several}.values())
    left = [one for one in every if one.measurement() is None]
    failures = Failures({}, {})
    if options.report_only:
        finished = {one.key for one in every} - {one.key for one in left}
        tasks = {paper: ours for paper, ours in tasks.items() if any(one.key in finished for one in ours)}
        if not tasks:
            return complain("runs/ holds no finished run of this scale, code and environment to report on")
    elif left:
        try:
            failures = _execute(every, left, options)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on with the runs that are left", file=sys.stderr)
            return 130
        except OSError as error:
            if not no_room(error):
                raise
            return complain(FULL.format(error))
    reports = [Report(paper, options.scale, _command(paper, options), ours, failures) for paper, ours in tasks.items()]
    for report in reports:
        try:
            folder = report.save()
        except OSError as error:
            if not no_room(error):
                raise
            return complain(FULL.format(error))
        console().print(report.table())
        console().print(f"{folder}/report.md, results.json and figure.png; all papers in RESULTS.md", highlight=False)
    return 0 if all(report.status == "reproduced" for report in reports) else 1


def _execute(every: "Sequence[Task]", left: "Sequence[Task]", options: Any) -> "Failures":
    from zoo.console import console
    from zoo.engines import LocalEngine, RayEngine
    from zoo.runner import execute
    from zoo.watch import Watch

    local = options.engine == "local"
    engine: Engine = LocalEngine(options.workers) if local else RayEngine(options.workers, options.address)
    try:
        with Watch(every, left, engine.workers, console()) as watch:
            return execute(left, engine, watch)
    finally:
        engine.close()


def _command(paper: Paper, options: Any) -> str:
    words = ["python", "reproduce.py", paper.name]
    words += ["--scale", options.scale] if options.scale != "small" else []
    words += ["--seeds", str(options.seeds)] if options.seeds else []
    return shlex.join(words)
