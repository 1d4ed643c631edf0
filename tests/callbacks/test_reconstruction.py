import math
from typing import NamedTuple

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from callbacks import (
    MeasurementResidual,
    PairedWinRate,
    PosteriorCoverage,
    ReconstructionMonitor,
    ReconstructionMSE,
    ReconstructionPSNR,
)


class FirstPixels(nn.Module):
    """Measures the first two pixels of four."""

    def forward(self, x):
        return x.flatten(1)[:, :2]

    def adjoint(self, y):
        return torch.cat([y, torch.zeros_like(y)], dim=1).view(-1, 1, 2, 2)


class Problem(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor
    operator: nn.Module
    index: torch.Tensor
    noise_std: float


class Guesser(LightningModule):
    """Finds the image plus an error of 0.1, or plus one of 0.3; or nothing, and says so."""

    def __init__(self, output=None, samples=None):
        super().__init__()
        self.output, self.samples = output, samples

    def test_step(self, batch, batch_idx):
        if self.output is not None:
            return self.output
        chains = {} if self.samples is None else {"near": batch.x + self.samples.view(-1, 1, 1, 1, 1)}
        return {"reconstructions": {"near": batch.x + 0.1, "far": batch.x + 0.3}, "chains": chains}


def outcome(module, monitor, noise_std=0.05):
    draw = torch.Generator().manual_seed(0)
    problems = []
    for i in range(2):
        x = torch.rand(3, 1, 2, 2, generator=draw)
        problems.append(Problem(x, x.flatten(1)[:, :2], FirstPixels(), torch.arange(3) + 3 * i, noise_std))
    trainer = Trainer(
        logger=False, callbacks=[monitor], enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False
    )
    return trainer.test(module, DataLoader(problems, batch_size=None), verbose=False)[0]  # type: ignore[arg-type]


def test_errors_and_their_standard_error_are_those_of_the_images():
    found, x = torch.rand(7, 1, 4, 4), torch.rand(7, 1, 4, 4)
    metric = ReconstructionMSE()
    for part in (slice(0, 4), slice(4, 7)):
        metric.update(found[part], x[part])
    errors = ((found - x) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(metric.compute()["mean"], errors.mean())
    torch.testing.assert_close(metric.compute()["se"], errors.std() / math.sqrt(7))


def test_the_signal_to_noise_ratio_is_averaged_in_decibels():
    metric = ReconstructionPSNR(data_range=2.0)
    metric.update(torch.tensor([[0.2], [0.02]]), torch.zeros(2, 1))
    torch.testing.assert_close(metric.compute()["mean"], torch.tensor(30.0))  # of 20 and 40


def test_the_residual_of_the_truth_is_one():
    draw = torch.Generator().manual_seed(0)
    metric = MeasurementResidual(noise_std=0.2)
    metric.update(torch.zeros(2000, 50), 0.2 * torch.randn(2000, 50, generator=draw))
    assert abs(metric.compute()["mean"].item() - 1) < 0.01


def test_intervals_cover_what_samples_of_the_same_law_should():
    draw = torch.Generator().manual_seed(0)
    metric = PosteriorCoverage(level=0.9)
    metric.update(torch.randn(400, 50, 100, generator=draw), torch.randn(50, 100, generator=draw))
    assert abs(metric.compute()["mean"].item() - 0.9) < 0.02


def test_intervals_may_count_what_samples_lack():
    draw = torch.Generator().manual_seed(0)
    samples = 3 * torch.randn(400, 50, 100, generator=draw)
    x = 3 * torch.randn(50, 100, generator=draw) + 4 * torch.randn(50, 100, generator=draw)
    blind, knowing = PosteriorCoverage(), PosteriorCoverage(pixel_std=4.0)
    blind.update(samples, x)
    knowing.update(samples, x)
    assert blind.compute()["mean"] < 0.75
    assert abs(knowing.compute()["mean"].item() - 0.9) < 0.02


def test_a_comparison_of_equals_is_a_tie():
    metric = PairedWinRate()
    metric.update(torch.ones(4), torch.ones(4))
    assert metric.compute()["win_rate"] == 0.5
    assert metric.compute()["mean"] == 0


def test_the_monitor_reports_errors_residuals_and_comparisons():
    monitor = ReconstructionMonitor(reference="near", num_shown=2)
    found = outcome(Guesser(), monitor)
    assert found["test/mse/near/2"] == pytest.approx(0.01, rel=1e-4)
    assert found["test/mse/far/2"] == pytest.approx(0.09, rel=1e-4)
    assert found["test/psnr/near/2"] == pytest.approx(20, rel=1e-4)
    assert found["test/residual/near/2"] == pytest.approx(2, rel=1e-4)  # 0.1 over 0.05
    assert found["test/difference/near_far/2"] == pytest.approx(-0.08, rel=1e-4)
    assert found["test/win_rate/near_far/2"] == 1
    assert not any("coverage" in name for name in found)
    index, errors = monitor.final_curves["mse/far/2"]
    assert index == [0, 1, 2, 3, 4, 5]
    assert errors == pytest.approx([0.09] * 6, rel=1e-3)
    assert set(monitor.final_curves) == {"mse/near/2", "mse/far/2"} | {
        f"image/{name}/2/{i}" for name in ("truth", "measured", "near", "far") for i in (0, 1)
    }
    shape, pixels = monitor.final_curves["image/measured/2/1"]
    assert shape == [1, 2, 2]
    assert pixels[2:] == [0, 0]


def test_the_monitor_reports_the_coverage_of_samples():
    found = outcome(Guesser(samples=torch.linspace(-1, 1, 21)), ReconstructionMonitor())
    assert found["test/coverage/near/2"] == 1


def test_measurements_without_noise_have_no_residual():
    assert not any("residual" in name for name in outcome(Guesser(), ReconstructionMonitor(), noise_std=0.0))


def test_a_module_without_reconstructions_or_reference_is_refused():
    with pytest.raises(MisconfigurationException, match="returns a dict with reconstructions, got int"):
        outcome(Guesser(output=3), ReconstructionMonitor())
    with pytest.raises(MisconfigurationException, match="one of the solvers near, far, got 'best'"):
        outcome(Guesser(), ReconstructionMonitor(reference="best"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReconstructionMonitor(num_shown=-1), "num_shown must be at least 0, got -1"),
        (lambda: ReconstructionMonitor(level=1.0), r"level must be in \(0, 1\), got 1.0"),
        (lambda: ReconstructionMonitor(pixel_std=-1.0), "pixel_std must be >= 0"),
        (lambda: ReconstructionPSNR(0.0), "data_range must be > 0, got 0.0"),
        (lambda: MeasurementResidual(math.nan), "noise_std must be > 0, got nan"),
        (lambda: ReconstructionMSE().update(torch.zeros(2, 3), torch.zeros(2, 4)), "found must have the shape of x"),
        (lambda: PosteriorCoverage().update(torch.zeros(2, 3), torch.zeros(2, 4)), "samples must be of shape"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
