import json
import re
from pathlib import Path

import pytest

from zoo.report import TABLE, read_reports, results_table

ROOT = Path(__file__).parents[1]
REPORTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("reports/*/results.json"))}
ROWS = {
    match["paper"]: match[0]
    for match in re.finditer(r"^\| \[.*\]\(zoo/(?P<paper>\w+)/README.md\).*$", (ROOT / "README.md").read_text(), re.M)
}


def test_every_paper_has_a_report_and_a_row_in_the_readme():
    rooms = {path.parent.name for path in ROOT.glob("zoo/*/claim.py")}
    assert set(REPORTS) == rooms
    assert set(ROWS) == rooms


def test_the_table_of_results_is_that_of_the_reports(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (ROOT / TABLE).read_text() == results_table(read_reports())


@pytest.mark.parametrize("paper", sorted(REPORTS))
def test_readmes_have_the_verdict_of_the_report(paper):
    verdict = REPORTS[paper]["verdict"]
    assert f"| {verdict} |" in ROWS[paper]
    readme = " ".join((ROOT / "zoo" / paper / "README.md").read_text().split())
    assert re.findall(r"Verdict: \*\*([^*]+)\*\*", readme) == [verdict]


def measured(paper):
    """Mean and deviation of every figure of a report, ours and the paper's."""
    figures = REPORTS[paper]["figures"].values()
    ours = [(figure["mean"], figure["std"]) for figure in figures if figure.get("n", 0) > 1]
    return ours + [(figure["paper"], figure["paper_std"]) for figure in figures if figure["paper_std"] is not None]


@pytest.mark.parametrize("paper", sorted(REPORTS))
def test_means_and_deviations_of_the_readme_are_those_of_the_report(paper):
    report = (ROOT / "reports" / paper / "report.md").read_text()
    for shown in re.findall(r"-?[\d.]+ ± [\d.]+", ROWS[paper]):
        mean, deviation = shown.split(" ± ")
        digits = len(mean.partition(".")[2])
        rounded = {
            tuple(f"{factor * value:.{digits}f}" for value in pair) for pair in measured(paper) for factor in (1, 100)
        }  # shares are shown in percent
        assert shown in report or (mean, deviation) in rounded, f"{shown} is not in the report of {paper}"
