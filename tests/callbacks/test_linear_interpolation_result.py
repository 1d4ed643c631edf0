"""The numbers that describe a path."""

import csv
import math
from itertools import pairwise

import numpy as np
import pytest

from callbacks.path_plot import draw_paths
from callbacks.path_result import PathResult


def path_of(loss, **options):
    return PathResult(alphas=np.linspace(0, 1, len(loss)), loss=loss, **options)


def scan_for_bumps(loss):
    """Height of each bump, by a state machine."""
    heights, reference, highest = [], None, None
    for before, here in pairwise(loss):
        if reference is None:
            if here > before:
                reference, highest = before, here
        elif here < reference:
            heights.append(highest - reference)
            reference = None
        else:
            highest = max(highest, here)
    return heights + ([highest - reference] if reference is not None else [])


@pytest.mark.parametrize("seed", range(20))
def test_the_closed_form_is_the_highest_bump_of_a_scan(seed):
    rng = np.random.default_rng(seed)
    loss = rng.random(rng.integers(2, 30)).round(rng.integers(1, 4))  # rounding makes ties
    path = path_of(loss)
    heights = scan_for_bumps(loss)
    assert path.min_delta() == pytest.approx(max(heights, default=0.0))
    assert max((bump.height for bump in path.bumps()), default=0.0) == pytest.approx(path.min_delta())
    assert path.min_delta() == max(later - earlier for i, earlier in enumerate(loss) for later in loss[i:])


def test_bumps_are_told_by_start_height_and_width():
    path = path_of([5.0, 3.0, 4.0, 4.5, 2.0, 2.0, 1.0, 1.5, 1.25])
    first, second = path.bumps()
    assert first == (0.125, 1.5, 0.375)  # from 3.0, up to 4.5, below 3.0 again at 2.0
    assert second == (0.75, 0.5, 0.25)  # never below 1.0 again
    assert path_of([3.0, 2.0, 2.0, 1.0]).bumps() == []


def test_a_rise_at_the_last_point_counts():
    path = path_of([3.0, 2.0, 1.0, 1.25])
    assert path.min_delta() == 0.25
    assert not path.is_monotonic()
    assert path.is_monotonic(tol=0.25)
    assert len(path.bumps()) == 1


def test_barriers_are_taken_above_their_baselines():
    path = path_of([4.0, 5.0, 3.5, 2.0, 0.0])  # the line: 4, 3, 2, 1, 0
    assert path.barrier() == 2.0
    assert path.barrier_position() == 0.25
    assert path.barrier("endpoints") == 1.0
    assert path.barrier("start") == 1.0
    assert path_of([1.0, 0.0, 2.0]).barrier("endpoints") == 0.0
    assert path_of([4.0, 1.0, 0.0]).barrier() == 0.0
    assert path_of([4.0, 1.0, 0.0]).barrier_position() == 0.0
    with pytest.raises(ValueError, match="baseline must be one of linear, endpoints, start, got 'chord'"):
        path.barrier("chord")


def test_a_path_is_not_assumed_to_run_from_zero_to_one():
    path = PathResult(alphas=[-1.0, 0.0, 3.0], loss=[0.0, 2.0, 4.0])
    assert path.barrier() == 1.0  # the line is at 1 there


def test_plateau_and_drop_refer_to_chance():
    chance = math.log(10)
    path = path_of([3.0, chance + 0.04, chance, chance - 0.1, 0.3], num_classes=10)
    assert path.plateau_fraction() == 2 / 5
    assert path.plateau_fraction(level=3.0, atol=1e-9) == 1 / 5
    assert path.drop_position() == 1.0  # half-way from 2.303 to 0.3 is 1.30
    assert path.drop_position(level=2.5) == 0.25
    assert math.isnan(path.drop_position(level=0.1))
    with pytest.raises(ValueError, match="level must be given where the targets are not classes"):
        path_of([1.0, 0.0]).drop_position()


def test_an_infinite_start_is_no_barrier():
    path = path_of([math.inf, math.inf, 3.0, 4.0, 1.0])
    assert path.min_delta() == 1.0
    assert path.barrier() == 0.0
    assert path_of([1.0, math.inf, 0.0]).barrier() == math.inf


def test_the_summary_holds_the_numbers_by_name():
    path = path_of([2.0, 3.0, 1.0], num_classes=10, gauss_length=0.5)
    assert path.summary() == {
        "loss_start": 2.0, "loss_middle": 3.0, "loss_end": 1.0, "min_delta": 1.0, "barrier": 1.5, "gauss_length": 0.5,
        "drop_position": 1.0, "plateau_fraction": 0.0,
    }  # fmt: skip
    assert path_of([4.0, 2.0, 1.0, 0.0]).summary()["loss_middle"] == 1.5  # between two positions
    assert "drop_position" not in path_of([1.0, 0.0]).summary()


def test_a_csv_gives_the_columns_back(tmp_path):
    path = path_of([2.0, 1.0], accuracy=[0.1, 0.5], metrics={"error": np.array([0.9, 0.5])})
    path.to_csv(tmp_path / "path.csv")
    with (tmp_path / "path.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [
        {"alpha": 0.0, "loss": 2.0, "accuracy": 0.1, "error": 0.9},
        {"alpha": 1.0, "loss": 1.0, "accuracy": 0.5, "error": 0.5},
    ]


def test_a_plot_holds_the_curve():
    (line,) = path_of([2.0, 0.5, 1.0]).plot(label="mine").lines
    assert line.get_xydata().tolist() == [[0.0, 2.0], [0.5, 0.5], [1.0, 1.0]]
    assert line.get_label() == "mine"


def test_the_figure_has_a_panel_for_each_part_and_group_and_a_line_for_each_treatment():
    calm, wild = path_of([2.0, 1.5, 1.0]), path_of([1e6, 1.5, 1.0])
    keys = [(part, buffers, group) for part in ("test", "train") for buffers in ("a", "b") for group in ("all", "fc")]
    figure = draw_paths({key: wild if key[2] == "fc" else calm for key in keys})
    assert [axes.get_title() for axes in figure.axes] == ["test: all", "test: fc", "train: all", "train: fc"]
    assert all(len(axes.lines) == 2 for axes in figure.axes)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log", "linear", "log"]


@pytest.mark.parametrize(
    ("alphas", "loss", "message"),
    [
        ([0.0], [1.0], "alphas must be at least 2 positions"),
        ([0.0, 0.5, 0.5], [1.0, 1.0, 1.0], "alphas must be finite and ascending"),
        ([1.0, 0.0], [1.0, 1.0], "alphas must be finite and ascending"),
        ([0.0, 1.0], [1.0], r"loss must have one value for each of the 2 alphas, got \(1,\)"),
        ([0.0, 1.0], [math.nan, 1.0], "loss must not be NaN, got NaN at alpha = 0"),
    ],
)
def test_wrong_curves_are_named(alphas, loss, message):
    with pytest.raises(ValueError, match=message):
        PathResult(alphas=alphas, loss=loss)
