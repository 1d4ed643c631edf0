import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    BalancednessDrift,
    BalancednessMonitor,
    LimitCheck,
    ProductDistance,
    RankOneMonitor,
    RateFit,
    balancedness,
    fitted_rate,
    rank_one_state,
)
from callbacks.weight_matrices import weight_matrices

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class PlainNetwork(pl.LightningModule):
    """Somebody's own linear network, trained by gradient descent on all data."""

    def __init__(self, lr=0.05, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2, bias=False))
        self.lr = lr
        self.target = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        self.predicted_limit = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def training_step(self, batch, _):
        loss = (self.layers(batch[0]) - batch[1]).square().sum() / 2
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def fit(model, probes, max_epochs=5):
    x = torch.eye(3)
    loader = DataLoader(TensorDataset(x, x @ model.target.mT), batch_size=3)
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=probes, enable_checkpointing=False, **QUIET)
    trainer.fit(model, loader)
    return trainer


def test_drift_is_that_of_the_conserved_matrices_from_the_start():
    model, monitor = PlainNetwork(), BalancednessMonitor()
    before = balancedness(weight_matrices(model))[0].clone()
    fit(model, [monitor], 3)
    after = balancedness(weight_matrices(model))[0]
    epochs, values = monitor.final_curves["balancedness/0"]
    assert epochs == [0, 1, 2, 3]
    assert values[0] == 0
    assert values[-1] == pytest.approx((after - before).norm().item())
    assert values[-1] > 0


def test_drift_is_of_the_order_of_the_rate():
    drift = {}
    for lr, epochs in ((0.02, 20), (0.01, 40)):
        monitor = BalancednessMonitor()
        fit(PlainNetwork(lr), [monitor], epochs)
        drift[lr] = monitor.final_curves["balancedness/0"][1][-1]
    assert drift[0.02] / drift[0.01] == pytest.approx(2, rel=0.1)


def test_a_drift_beyond_the_tolerance_is_told_once():
    with pytest.warns(UserWarning, match="balancedness of replica 0 has drifted by") as caught:
        fit(PlainNetwork(), [BalancednessMonitor(tol=1e-9)])
    assert sum("drifted" in str(one.message) for one in caught) == 1


def test_the_metric_keeps_the_largest_drift_of_all_replicas():
    reference = [torch.ones(2, 1, 1), torch.ones(2, 1, 1)]
    metric = BalancednessDrift(reference)
    metric.update([torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[3.0]], [[1.0]]])])  # 9 - 1 and 1 - 4
    metric.update(reference)
    assert metric.compute() == 8
    metric.reset()
    assert metric.largest == 0


def test_the_state_of_a_product_by_hand():
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([0.0, 1.0, 0.0])
    other_u, other_v = torch.tensor([-0.8, 0.6]), torch.tensor([0.0, 0.0, 1.0])
    target = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    state = rank_one_state(5 * torch.outer(u, v) + 0.1 * torch.outer(other_u, other_v), target)
    expected = torch.tensor([5.0, 0.1, 0.8 * 2, 0.6])
    torch.testing.assert_close(torch.stack(state), expected)


def test_a_product_of_one_column_has_no_second_singular_value():
    assert rank_one_state(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [0.0]])).second == 0


def test_ranks_of_somebody_elses_network_are_logged():
    model, monitor = PlainNetwork(), RankOneMonitor()
    trainer = fit(model, [monitor], 100)
    assert trainer.callback_metrics["s"].item() == pytest.approx(2.0, rel=1e-3)
    assert trainer.callback_metrics["rho"].item() == pytest.approx(2.0, rel=1e-3)
    assert trainer.callback_metrics["c1"].item() == pytest.approx(2.0, rel=1e-3)
    assert trainer.callback_metrics["second_singular_value"] < 1e-6
    assert set(monitor.final_curves) == {"s/0", "rho/0", "c1/0", "second_singular_value/0"}


def test_a_limit_that_is_reached_and_one_that_is_not():
    check = LimitCheck(tolerance=1e-2, must_reach=True)
    fit(PlainNetwork(), [check], 150)
    assert check.final_metrics["limit/reached"] == 1
    assert check.final_metrics["limit/distance"] < 1e-2
    with pytest.raises(RuntimeError, match=r"replicas \[0\] are not within 0.01 of their limits"):
        fit(PlainNetwork(), [LimitCheck(tolerance=1e-2, must_reach=True)], 1)
    lenient = LimitCheck(tolerance=1e-2)
    fit(PlainNetwork(), [lenient], 1)
    assert lenient.final_metrics["limit/reached"] == 0


def test_the_distance_of_products_is_a_mean_over_replicas_and_updates():
    metric = ProductDistance(torch.tensor([[1.0]]))
    metric.update([torch.tensor([[[2.0]], [[3.0]]]), torch.tensor([[[1.0]], [[2.0]]])])  # 1 and 5 away
    metric.update([torch.tensor([[1.0]]), torch.tensor([[1.0]])])
    assert metric.compute() == 2


def test_rates_of_exact_laws_are_found():
    t = np.linspace(3, 9, 13)
    assert fitted_rate(t, -5 * np.exp(-0.7 * t)) == pytest.approx(0.7)
    assert fitted_rate(t, (4 * t + 100) ** -1.5, "power", 1.5) == pytest.approx(4)
    assert math.isnan(fitted_rate(t[:1], t[:1]))
    assert math.isnan(fitted_rate(t, 0 * t))


def test_the_rate_of_a_logged_loss_is_fitted_within_the_window():
    rate = RateFit("loss", window=(50, 80))
    trainer = fit(PlainNetwork(), [rate], 90)
    times, values = (np.array(side)[:, 0] for side in zip(*rate.points))
    assert times.tolist() == list(range(1, 91))
    gap = values[49:80]
    assert rate.final_metrics["rate/loss"] == pytest.approx(-np.polyfit(times[49:80], np.log(gap), 1)[0])
    assert trainer.callback_metrics["loss"].item() == pytest.approx(values[-1])


def test_nothing_is_told_of_a_window_without_points():
    rate = RateFit("loss", window=(50, 80))
    fit(PlainNetwork(), [rate], 3)
    assert rate.final_metrics == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancednessMonitor(tol=-1.0), "tol must be >= 0, got -1.0"),
        (lambda: LimitCheck(tolerance=0.0), "tolerance must be > 0, got 0.0"),
        (lambda: RateFit("loss", window=(3, 3)), r"window must be two ascending times, got \[3, 3\]"),
        (lambda: RateFit("loss", (1, 2), transform="exp"), "transform must be one of log, power, got 'exp'"),
        (lambda: RateFit("loss", (1, 2), power=0.0), "power must be > 0, got 0.0"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_modules_that_cannot_be_probed_are_named():
    with pytest.raises(MisconfigurationException, match="chain of two or more matrices"):
        weight_matrices(nn.Linear(3, 2))
    with pytest.raises(MisconfigurationException, match="chain of two or more matrices"):
        weight_matrices(nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)))
    with pytest.raises(MisconfigurationException, match=r"there is no measure 'lss', but .*loss"):
        fit(PlainNetwork(), [RateFit("lss", (1, 2))], 1)
    model = PlainNetwork()
    model.predicted_limit = None
    with pytest.raises(MisconfigurationException, match="LimitCheck needs a module with predicted_limit"):
        fit(model, [LimitCheck()], 1)
