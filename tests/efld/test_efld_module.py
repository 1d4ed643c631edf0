from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from callbacks import GradientDiscrepancy
from datamodules import VisionDataModule
from zoo.efld import EFLD, ConvNet, DivergenceSearch, GaussianNoise, NoisySignSGD, SignConvergence, StaircaseClassifier

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def data(**options):
    return VisionDataModule(
        "digits", batch_size=20, independent_batches=True, normalize=False, **({"subset_per_class": 10} | options)
    )


SIGNS = partial(NoisySignSGD, lr=0.01, alpha=0.1)
GAUSSIAN = partial(EFLD, lr=0.05, alpha=0.1, noise=GaussianNoise())


def classifier(optimizer=SIGNS, **options):
    net = ConvNet(10, (1, 8, 8), (4,), 3, 1, 2, (8,))
    return StaircaseClassifier(10, input_shape=(1, 8, 8), backbone=net, optimizer=optimizer, **options)


def fit(folder, model, epochs, callbacks=(), ckpt_path=None):
    pl.seed_everything(0)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=folder, callbacks=[*callbacks], **QUIET)
    trainer.fit(model, datamodule=data(seed=0), ckpt_path=ckpt_path)
    return trainer


class Rates(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_the_learning_rate_falls_by_steps_down_to_its_floor(tmp_path):
    rates = Rates()
    fit(tmp_path, classifier(lr_decay=0.5, decay_every_n_steps=4, min_lr_ratio=0.2), 3, [rates])
    assert rates.seen == pytest.approx([0.01] * 4 + [0.005] * 4 + [0.0025] * 4 + [0.002] * 3)


def test_without_a_decay_the_schedule_is_the_classifier_s(tmp_path):
    rates = Rates()
    fit(tmp_path, classifier(lr_schedule="step", milestones=[1], gamma=0.1), 2, [rates])
    assert rates.seen == pytest.approx([0.01] * 5 + [0.001] * 5)


@pytest.mark.parametrize("optimizer", [SIGNS, GAUSSIAN], ids=["signs", "gaussian"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, optimizer):
    schedule = {"lr_decay": 0.9, "decay_every_n_steps": 3}
    probes = [GradientDiscrepancy(num_pairs=8, every_n_steps=4) for _ in range(2)]
    whole = classifier(optimizer, **schedule)
    fit(tmp_path / "whole", whole, 4, probes[:1])
    half = fit(tmp_path / "half", classifier(optimizer, **schedule), 2, [GradientDiscrepancy(8, 4)])
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = classifier(optimizer, **schedule)
    fit(tmp_path / "resumed", resumed, 4, probes[1:], ckpt_path=tmp_path / "half.ckpt")
    for one, other in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(one, other)
    assert probes[0].history == probes[1].history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_decay": 0.0}, r"lr_decay must be in \(0, 1\], got 0.0"),
        ({"lr_decay": 1.5}, r"lr_decay must be in \(0, 1\], got 1.5"),
        ({"decay_every_n_steps": 0}, "decay_every_n_steps must be at least 1, got 0"),
        (
            {"lr_decay": 0.5, "lr_schedule": "cosine"},
            "lr_schedule must be constant where lr_decay is below 1, got 'cos",
        ),
    ],
)
def test_schedules_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be an odd number of at least 1, got 4"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"pool": 0}, "pool must be at least 1, got 0"),
    ],
)
def test_networks_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(10, **options)


def test_a_network_has_the_features_that_its_head_is_given():
    net, x = ConvNet(3, (2, 12, 12), (4, 6), 5, 1, 2, (9,)), torch.randn(2, 2, 12, 12)
    assert net.features(x).shape == (2, 9)
    torch.testing.assert_close(net.head(net.features(x)), net(x))


def simulate(module, epochs):
    pl.seed_everything(0)
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, **QUIET)
    trainer.fit(module)
    curves = next(callback.final_curves for callback in trainer.callbacks if hasattr(callback, "final_curves"))
    return trainer, curves


def test_the_search_keeps_the_largest_ratio():
    _, curves = simulate(DivergenceSearch(dims=[1, 3], num_triples=20, steps_per_epoch=2), 3)
    for name in ("gaussian", "sign", "quantized"):
        for i in range(2):
            steps, values = curves[f"ratio/{name}/{i}"]
            assert steps == [0, 2, 4, 6]
            assert values == sorted(values)
            assert 0 < values[-1] <= 5


def test_quadratics_end_with_their_longest_run():
    module = SignConvergence(horizons=[5, 20], noise_std=[0.0, 0.5], dim=3, num_replicas=4)
    trainer, curves = simulate(module, 100)
    assert trainer.current_epoch == 4
    assert module.runs.steps == 20
    for i in range(4):
        assert curves[f"convergence/mean_squared_gradient/{i}"][1][-1] < curves[f"convergence/bound/{i}"][1][-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DivergenceSearch(dims=[]), "dims must hold at least one value, got none"),
        (lambda: DivergenceSearch(dims=[0]), r"dims must be at least 1, got \[0\]"),
        (lambda: DivergenceSearch(num_triples=0), "num_triples must be at least 1, got 0"),
        (lambda: SignConvergence(dim=0), "dim must be at least 1, got 0"),
        (lambda: SignConvergence(smallest_curvature=3.0), "largest_curvature must be at least 3.0, smallest_curvature"),
        (lambda: SignConvergence(horizons=[0]), "horizons must be one or more values that are at least 1"),
        (lambda: SignConvergence(horizons=[]), "horizons must be one or more values that are at least 1"),
    ],
)
def test_simulations_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
