from itertools import combinations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks import DiversityIndex, DiversityIndexMonitor
from callbacks.diversity_index import diameter, diversity_along_path, diversity_index


def plain_index(points, largest):
    """The index of one set of points, graph by graph, by counting."""
    k = len(points)
    distance = {(i, j): (points[i] - points[j]).norm().item() for i, j in combinations(range(k), 2)}
    thresholds = sorted(distance.values())
    area = 0.0
    for low, high in zip(thresholds, [*thresholds[1:], largest]):
        joined = {pair for pair, d in distance.items() if d <= low}
        total = 0.0
        for i in range(k):
            near = [j for j in range(k) if tuple(sorted((i, j))) in joined]
            if len(near) >= 2:
                edges = sum(tuple(sorted(pair)) in joined for pair in combinations(near, 2))
                total += 2 * edges / (len(near) * (len(near) - 1))
        area += total / k * (high - low)
    return 1 - area / largest


def clouds(num, k, size, spread=0.5):
    return spread * torch.rand(num, k, size, generator=torch.Generator().manual_seed(k), dtype=torch.float64)


@pytest.mark.parametrize("k", [3, 4, 7, 10])
def test_the_index_is_that_of_counting_graph_by_graph(k):
    points = clouds(6, k, 5)
    expected = [plain_index(one, diameter(0.25, 5, "Linf")) for one in points]
    assert diversity_index(points, eps=0.25).tolist() == pytest.approx(expected, abs=1e-9)


def test_distances_that_are_equal_change_nothing():
    grid = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.0, 0.0]]], dtype=torch.float64)
    expected = plain_index(grid[0], diameter(0.5, 2, "Linf"))
    assert diversity_index(grid, eps=0.5).item() == pytest.approx(expected, abs=1e-9)


def test_the_index_does_not_depend_on_order_place_and_scale():
    points = clouds(5, 8, 6)
    index = diversity_index(points, eps=0.25)
    torch.testing.assert_close(diversity_index(points.flip(1) + 3, eps=0.25), index)
    torch.testing.assert_close(diversity_index(7 * points, eps=7 * 0.25), index)
    torch.testing.assert_close(diversity_index(points.view(5, 8, 2, 3, 1), eps=0.25), index)


def test_random_corners_reach_what_is_about_the_most_and_equal_points_have_none():
    corners = torch.randint(2, (4, 10, 3072), generator=torch.Generator().manual_seed(0)).float()
    assert diversity_index(corners, eps=0.5).mean().item() == pytest.approx(0.5**0.5, abs=0.01)
    assert diversity_index(torch.ones(2, 10, 7), eps=0.5).tolist() == [0, 0]


def test_wider_searches_have_a_larger_index():
    step = torch.randn(1, 10, 100, generator=torch.Generator().manual_seed(0))
    indices = [diversity_index(scale * step, eps=1.0).item() for scale in (0.01, 0.1, 1.0)]
    assert indices == sorted(indices)


def test_windows_along_a_path_are_those_taken_one_by_one():
    path = clouds(70, 15, 4)  # more searches than are in memory at a time
    expected = torch.stack([diversity_index(path[:, i : i + 6], eps=0.25) for i in range(10)], dim=1)
    torch.testing.assert_close(diversity_along_path(path, eps=0.25, window=6), expected)


def test_the_diameter_of_an_l2_ball_has_no_dimension():
    points = clouds(3, 5, 50)
    assert diameter(0.25, 50, "L2") == 0.5
    expected = [plain_index(one, 10.0) for one in points]
    assert diversity_index(points, eps=5.0, norm="L2").tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "eps must be > 0, got 0.0"),
        ({"eps": float("nan")}, "eps must be > 0"),
        ({"window": 2}, "window must be at least 3"),
        ({"norm": "L1"}, "norm must be Linf or L2, got 'L1'"),
        ({"window": 11}, r"points must have the shape \(B, T, \*\) with T >= 11"),
    ],
)
def test_arguments_of_an_index_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        diversity_along_path(clouds(2, 10, 3), **({"eps": 0.5} | arguments))
    if "T >= " not in message:
        with pytest.raises(ValueError, match=message):
            DiversityIndex(**({"eps": 0.5} | arguments))


def test_points_without_an_axis_of_searches_are_refused():
    with pytest.raises(ValueError, match=r"points must have the shape \(B, K, \*\), got \(10, 3\)"):
        diversity_index(torch.zeros(10, 3), eps=0.5)


def test_the_metric_is_the_mean_however_the_searches_come():
    path = clouds(9, 12, 4)
    whole, parts = DiversityIndex(0.25, window=5), DiversityIndex(0.25, window=5)
    whole.update(path)
    for part in path.split([2, 6, 1]):
        parts.update(part)
    expected = diversity_along_path(path, 0.25, window=5)
    for metric in (whole, parts):
        torch.testing.assert_close(metric.compute()["curve"], expected.mean(0))
        torch.testing.assert_close(metric.compute()["diversity_index"], expected.mean())


class Searcher(pl.LightningModule):
    """A user's own module: its test step returns what it searched."""

    def __init__(self, traces=True):
        super().__init__()
        self.traces = traces

    def test_step(self, batch, batch_idx):
        trace = type("Trace", (), {"points": batch[None].repeat(2, 1, 1, 1), "eps": 0.25, "norm": "Linf"})()
        return {"traces": {"walk": trace} if self.traces else {}}


@pytest.fixture
def trainer(tmp_path):
    def make(monitor):
        options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return pl.Trainer(callbacks=[monitor], accelerator="cpu", default_root_dir=tmp_path, **options)

    return make


def test_the_monitor_follows_a_module_of_ones_own(trainer):
    path, monitor = clouds(8, 12, 4).float(), DiversityIndexMonitor(window=5)
    expected = diversity_along_path(path, 0.25, window=5)
    for _ in range(2):  # a second test begins anew
        found = trainer(monitor).test(Searcher(), DataLoader(path, batch_size=3), verbose=False)[0]
        assert found["test/diversity_index/walk"] == pytest.approx(expected.mean().item(), abs=1e-5)
        iterations, values = monitor.final_curves["diversity_index/walk"]
        assert iterations == list(range(4, 12))
        assert values == pytest.approx(expected.mean(0).tolist(), abs=1e-5)


def test_the_monitor_says_what_it_misses(trainer):
    with pytest.raises(MisconfigurationException, match="needs a module whose test_step returns the traces"):
        trainer(DiversityIndexMonitor()).test(Searcher(traces=False), DataLoader(torch.zeros(2, 12, 4)), verbose=False)
    with pytest.raises(ValueError, match="window must be at least 3"):
        DiversityIndexMonitor(window=2)
