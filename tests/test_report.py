import re

import pytest
from matplotlib.figure import Figure

from zoo.claims import Check, Claim, Measurement, Paper, Run, Verdict
from zoo.drawing import draw_figures
from zoo.recipes import ROOMS
from zoo.report import Report, results_table
from zoo.runner import Failures, Task

MEASURED = Verdict({"Cora: GCN": [80.0, 82.0]}, [Check("it | holds", True, "+1"), Check("beside", None, "2")])


class FakePaper(Paper):
    @property
    def claim(self):
        figures = {"Cora: GCN": (81.5, 0.5), "Cora: GAT": 83.0}
        return Claim("The claim", figures, lambda _: [], lambda _: MEASURED, None, "%")


class FakeTask(Task):
    def measurement(self):
        one, device, versions = self.run, "cpu, 1 threads", {"torch": "3"}
        return Measurement(one.recipe, one.seed, {}, {}, {"test/acc": 0.8}, "Cora", device, 60.0, versions, "c", "now")


def report(tmp_path, errors=()):
    tasks = [FakeTask(Run("gcn", seed), f"key{seed}", tmp_path) for seed in range(3)]
    paper = FakePaper(ROOMS / "local_augmentation")
    return Report(paper, "small", "python reproduce.py x", tasks, Failures(dict(errors), {}))


def test_figures_are_mean_and_sample_std(tmp_path):
    gcn, gat = report(tmp_path).figures().values()
    assert (gcn["mean"], gcn["n"], gcn["paper"], gcn["paper_std"]) == (81.0, 2, 81.5, 0.5)
    assert gcn["std"] == pytest.approx(2**0.5)
    assert (gat["mean"], gat["std"], gat["n"], gat["paper"]) == (None, None, 0, 83.0)


def test_the_markdown_says_what_was_asserted_measured_and_run(tmp_path):
    text = report(tmp_path).markdown()
    assert "| Cora: GCN | 81.5 ± 0.5 | 81.00 ± 1.41 (2) |" in text
    assert "| Cora: GAT | 83.0 | not measured |" in text
    assert r"| it \| holds | holds | +1 |" in text
    assert "| `python train.py --model gcn --seed_everything S` | 0 to 2 | 3 |" in text
    assert "- Device: cpu, 1 threads\n- Versions: torch 3\n" in text


def test_failed_runs_are_in_the_report_with_their_errors(tmp_path):
    one = report(tmp_path, {"key1": "boom\nat line 3"})
    assert one.status == "not measured"
    assert one.reason == "1 of 3 runs failed"
    assert "`python train.py --model gcn --seed_everything 1`\n\n```\nboom\nat line 3\n```" in one.markdown()


def test_a_stand_in_is_never_reproduced(tmp_path, monkeypatch):
    one = report(tmp_path)
    assert one.status == "reproduced"
    real = FakeTask.measurement
    monkeypatch.setattr(FakeTask, "measurement", lambda self: _replace(real(self), data="STAND-IN for Cora"))
    assert report(tmp_path).status == "not measured"


def _replace(measurement, **changes):
    return Measurement(**(vars(measurement) | changes))


def test_the_table_of_all_papers_has_a_row_for_each_report(tmp_path):
    one = report(tmp_path).content()
    text = results_table([one, one | {"scale": "full"}])
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == 2
    assert "Cora: GCN 81.5 ± 0.5<br>Cora: GAT 83.0" in rows[0]
    assert "81.00 ± 1.41 (2)<br>not measured" in rows[0]
    assert "3 run-minutes on cpu, 1 threads" in rows[0]
    assert "reports/local_augmentation/full/report.md" in rows[1]
    assert all(row.count(" | ") == 6 for row in rows)


def test_the_default_figure_has_a_panel_for_each_group_with_both_marks(tmp_path):
    ours = {"values": [1.0, 3.0], "mean": 2.0, "std": 1.4, "paper": None, "paper_std": None}
    both = ours | {"paper": 2.5, "paper_std": 0.1}
    drawing = draw_figures({"A: x": ours, "A: y": both, "B: x": both}, "error, %")
    assert isinstance(drawing, Figure)
    left, right = drawing.axes
    assert (left.get_title(), right.get_title()) == ("A", "B")
    assert [label.get_text() for label in left.get_xticklabels()] == ["x", "y"]
    assert left.get_ylabel() == "error, %"
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours: mean ± std, dots are runs", "paper"]
    marks = [line.get_ydata()[0] for line in right.get_lines() if line.get_marker() in ("o", "D")]
    assert marks == [2.0, 2.5]


def test_the_report_holds_no_times(tmp_path):
    assert not re.search(r"\d+ s\b|\d{4}-\d{2}-\d{2}|60\.0", report(tmp_path).markdown())
