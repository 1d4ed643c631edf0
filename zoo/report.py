"""What ``reproduce.py`` leaves behind: the report of a paper, its numbers, its figure, and the table of all papers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table

from zoo.claims import NotEnoughRuns, Paper, Results, Verdict
from zoo.drawing import draw_figures
from zoo.files import whole, write_text
from zoo.runner import Failures, Task

REPORTS = Path("reports")
TABLE = Path("RESULTS.md")
OUTCOMES = {True: "holds", False: "**fails**", None: "shown beside"}


def report_folder(paper: str, scale: str) -> Path:
    """Where a paper's report lies; that of the full scale is kept beside the small one."""
    return REPORTS / paper if scale == "small" else REPORTS / paper / scale


@dataclass(frozen=True)
class Report:
    """A claim beside what its runs measured.

    Args:
        paper: The paper.
        scale: ``"small"`` or ``"full"``.
        command: What re-measures the claim.
        tasks: All runs of the claim.
        failures: What did not finish in this attempt.
    """

    paper: Paper
    scale: str
    command: str
    tasks: Sequence[Task]
    failures: Failures

    @cached_property
    def results(self) -> Results:
        """The finished runs, in the claim's order."""
        found = (task.measurement() for task in self.tasks)
        return Results([one for one in found if one is not None], self.scale)

    @cached_property
    def _judged(self) -> tuple[Verdict | None, str]:
        try:
            return self.paper.claim.verdict(self.results), ""
        except NotEnoughRuns as error:
            return None, str(error)

    @property
    def verdict(self) -> Verdict | None:
        """What the finished runs say, be they all or not; ``None`` if they are too few to say anything."""
        return self._judged[0]

    @property
    def reason(self) -> str:
        """Why the claim is not measured; empty if it is."""
        keys = {task.key for task in self.tasks}
        missing_data = sorted({why for key, why in self.failures.missing_data.items() if key in keys})
        if missing_data:
            return "; ".join(missing_data)
        if any("STAND-IN" in one.data for one in self.results):
            return "a run used a stand-in"
        if self._failed():
            return f"{len(self._failed())} of {len(self.tasks)} runs failed"
        if len(self.results) < len(self.tasks):
            return f"only {len(self.results)} of {len(self.tasks)} runs have finished"
        return self._judged[1]

    @property
    def status(self) -> str:
        """``"reproduced"``, ``"not reproduced"`` or ``"not measured"``."""
        if self.reason or self.verdict is None:
            return "not measured"
        return "reproduced" if self.verdict.reproduced else "not reproduced"

    def figures(self) -> dict[str, dict[str, Any]]:
        """The paper's figures and ours, by name: values, mean, std and n."""
        ours = self.verdict.figures if self.verdict else {}
        papers = self.paper.claim.paper_figures
        return {name: _figure(ours.get(name), papers.get(name)) for name in dict.fromkeys([*ours, *papers])}

    def content(self) -> dict[str, Any]:
        """All of it, for ``results.json``."""
        return {
            "paper": self.paper.name,
            "title": self.paper.title,
            "claim": self.paper.claim.statement,
            "unit": self.paper.claim.unit,
            "scale": self.scale,
            "command": self.command,
            "verdict": self.status,
            "reason": self.reason,
            "checks": [asdict(check) for check in (self.verdict.checks if self.verdict else ())],
            "figures": self.figures(),
            "seconds": sum(one.seconds for one in self.results),
            "failed": {task.name: error for task, error in self._failed()},
            "runs": [{name: value for name, value in asdict(one).items() if name != "curves"} for one in self.results],
        }

    def _failed(self) -> list[tuple[Task, str]]:
        return [(task, self.failures.errors[task.key]) for task in self.tasks if task.key in self.failures.errors]

    def save(self) -> Path:
        """Write ``report.md``, ``results.json`` and ``figure.png``, and renew the table of all papers.

        Returns:
            The folder.
        """
        folder = report_folder(self.paper.name, self.scale)
        folder.mkdir(parents=True, exist_ok=True)
        if self.verdict:
            with whole(folder / "figure.png") as partial:
                self.draw().savefig(partial, format="png", dpi=150)
        else:
            (folder / "figure.png").unlink(missing_ok=True)
        write_text(folder / "results.json", _json(self.content()))
        write_text(folder / "report.md", self.markdown())
        write_text(TABLE, results_table(read_reports()))
        return folder

    def draw(self) -> Figure:
        """The claim's own figure, or ours with error bars beside the paper's."""
        claim = self.paper.claim
        return claim.figure(self.results) if claim.figure else draw_figures(self.figures(), claim.unit)

    def markdown(self) -> str:
        """The report. It holds no times, so that the same measurements give the same text."""
        claim = self.paper.claim
        parts = [
            f"# {self.paper.title}",
            f"**Claim**: {claim.statement}",
            f"**Verdict: {self.status}**" + (f": {self.reason}" if self.reason else "") + f" (`{self.command}`)",
        ]
        if self.verdict:
            checks = [[check.statement, OUTCOMES[check.holds], check.evidence] for check in self.verdict.checks]
            parts += [_markdown_table(["statement", "outcome", "numbers"], checks)]
        rows = [[name, _paper_text(figure), _ours_text(figure)] for name, figure in self.figures().items()]
        parts += [_markdown_table([claim.unit or "figure", "paper", "ours: mean ± std (n)"], rows)]
        if self.verdict:
            parts += ["![Ours beside the paper's](figure.png)"]
        parts += ["## Runs", self._runs(), *self._circumstances()]
        if self._failed():
            parts += ["## Failed runs"]
        parts += [f"`{task.run.command()}`\n\n```\n{error}\n```" for task, error in self._failed()]
        return "\n\n".join(parts) + "\n"

    def _runs(self) -> str:
        finished: dict[str, list[Task]] = {task.kind: [] for task in self.tasks}
        for task in self.tasks:
            if task.measurement() is not None:
                finished[task.kind].append(task)
        commands = {task.kind: task.run.command("S") for task in self.tasks}
        counts = {kind: sum(task.kind == kind for task in self.tasks) for kind in commands}
        rows = [[f"`{commands[kind]}`", _seeds(finished[kind]), str(counts[kind])] for kind in commands]
        return _markdown_table(["command", "finished seeds S", "of"], rows)

    def _circumstances(self) -> list[str]:
        def distinct(values: Sequence[str]) -> str:
            return "; ".join(sorted(set(values))) or "none"

        packages = [", ".join(f"{name} {one}" for name, one in run.versions.items()) for run in self.results]
        return [
            f"- Scale: {self.scale}\n- Data: {distinct([run.data for run in self.results])}\n"
            f"- Device: {distinct([run.device for run in self.results])}\n- Versions: {distinct(packages)}\n"
            "- Configuration, metrics and wall time of every run: `results.json`"
        ]

    def table(self) -> RenderableType:
        """The verdict for the console, with the numbers behind it."""
        colour = {"reproduced": "green", "not reproduced": "red", "not measured": "yellow"}[self.status]
        why = f": {self.reason}" if self.reason else ""
        parts: list[RenderableType] = [f"\n[bold]{self.paper.name}[/]: [bold {colour}]{self.status}[/]{why}"]
        if self.verdict:
            checks = Table("statement", "outcome", "numbers")
            for check in self.verdict.checks:
                checks.add_row(check.statement, OUTCOMES[check.holds].strip("*"), check.evidence)
            parts.append(checks)
        figures = Table(self.paper.claim.unit or "figure", "paper", "ours: mean ± std (n)")
        for name, figure in self.figures().items():
            figures.add_row(name, _paper_text(figure), _ours_text(figure))
        return Group(*parts, figures)


def _json(content: Mapping[str, Any]) -> str:
    """As JSON, with each run on a line of its own."""
    head = json.dumps({**content, "runs": []}, indent=1)
    runs = ",\n".join(f"  {json.dumps(run)}" for run in content["runs"])
    return head.replace('"runs": []', f'"runs": [\n{runs}\n ]') + "\n"


def _figure(ours: Any, paper: float | tuple[float, float] | None) -> dict[str, Any]:
    values = np.atleast_1d(np.asarray([] if ours is None else ours, dtype=float))
    mean, std = paper if isinstance(paper, tuple) else (paper, None)
    return {
        "paper": mean,
        "paper_std": std,
        "values": values.tolist(),
        "mean": float(values.mean()) if len(values) else None,
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "n": len(values),
    }


def _text(mean: float | None, std: float | None, digits: int) -> str:
    if mean is None:
        return ""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _paper_text(figure: Mapping[str, Any]) -> str:
    """With as many digits as the paper gives, at least one."""
    given = [value for value in (figure["paper"], figure["paper_std"]) if value is not None]
    digits = max((len(f"{value:.4f}".rstrip("0").partition(".")[2]) for value in given), default=1)
    return _text(figure["paper"], figure["paper_std"], max(digits, 1)) or "not reported"


def _ours_text(figure: Mapping[str, Any]) -> str:
    return f"{_text(figure['mean'], figure['std'], 2)} ({figure['n']})" if figure["n"] else "not measured"


def _seeds(tasks: Sequence[Task]) -> str:
    """Seeds in short: consecutive ones by their ends."""
    seeds = sorted(task.run.seed for task in tasks)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or "none"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_reports() -> list[dict[str, Any]]:
    """The contents of every ``results.json`` below ``reports/``, by paper."""
    paths = sorted([*REPORTS.glob("*/results.json"), *REPORTS.glob("*/full/results.json")])
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def results_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """``RESULTS.md``: one row for each report."""
    rows = []
    for report in reports:
        names = [name for name, figure in report["figures"].items() if figure["paper"] is not None]
        figures = [report["figures"][name] for name in names]
        devices = sorted({run["device"] for run in report["runs"]})
        folder = report_folder(report["paper"], report["scale"]).as_posix()
        rows.append(
            [
                f"[{report['title']}]({folder}/report.md)",
                report["claim"],
                "<br>".join(f"{name} {_paper_text(figure)}" for name, figure in zip(names, figures)),
                "<br>".join(map(_ours_text, figures)),
                f"**{report['verdict']}**, {report['scale']} scale",
                f"{report['seconds'] / 60:.0f} run-minutes on {'; '.join(devices) or 'nothing'}",
                f"`{report['command']}`",
            ]
        )
    head = ["paper", "claim", "paper's figure", "ours: mean ± std (n)", "verdict", "cost", "command"]
    return (
        "# Results\n\nWritten by `reproduce.py`. The papers' figures are as published; ours are re-measured at the "
        "scale that stands beside the verdict.\n\n" + _markdown_table(head, rows) + "\n"
    )
