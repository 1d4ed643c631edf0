import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from datamodules import MarginPatchDataModule, TeacherDataModule
from zoo.momentum_margin import (
    CubicPatchCNN,
    DivergenceError,
    EMAMomentumSGD,
    MarginExperiment,
    TeacherExperiment,
    sweep_table,
)
from zoo.momentum_margin.descent import group_means

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SIZES = {"num_train": 40, "num_test": 60, "dim": 20, "num_patches": 3}


def data(**options):
    return MarginPatchDataModule(**{"num_problems": 2, "seed": 0, **SIZES, **options})


def fit(module, datamodule, max_epochs, ckpt_path=None, **options):
    trainer = pl.Trainer(max_epochs=max_epochs, enable_checkpointing=False, **QUIET, **options)
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return trainer


def experiment(seed=0, **options):
    torch.manual_seed(seed)
    return MarginExperiment(**{"num_problems": 2, "dim": 20, "num_filters": 4, "init_std": 0.05, **options})


def history(trainer):
    (callback,) = (callback for callback in trainer.callbacks if hasattr(callback, "final_curves"))
    return callback


def test_the_experiment_follows_a_plain_loop_of_autograd_and_sgd():
    module, samples = experiment(momentum=[0.0, 0.9], growth=1.0), data()
    starts = module.net.weight.detach().clone()
    fit(module, samples, max_epochs=6)
    for problem in range(2):
        for setting, momentum in enumerate([0.0, 0.9]):
            net = CubicPatchCNN(20, 4)
            net.weight.data = starts[problem, setting]
            optimizer = torch.optim.SGD(net.parameters(), lr=1 - momentum, momentum=momentum)
            for _ in range(60):
                optimizer.zero_grad()
                F.softplus(-samples.train.y[problem] * net(samples.train.x[problem])).mean().backward()
                optimizer.step()
            torch.testing.assert_close(module.net.weight[problem, setting], net.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_momentum_zero_is_gradient_descent_bit_for_bit(lr):
    ours = experiment(lr=lr, momentum=0.0)
    theirs = experiment(optimizer=lambda params: torch.optim.SGD(params, lr=lr))
    for module in (ours, theirs):
        fit(module, data(), max_epochs=12)
    assert ours.net.weight.std() > 0.1  # it has moved
    assert torch.equal(ours.net.weight, theirs.net.weight)


def test_nesterov_and_the_convention_of_rates_reach_the_optimizer():
    ours = experiment(lr=0.1, momentum=0.9, nesterov=True, lr_convention="heavy_ball")
    theirs = experiment(optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True))
    for module in (ours, theirs):
        fit(module, data(), max_epochs=8)
    torch.testing.assert_close(ours.net.weight, theirs.net.weight, rtol=1e-4, atol=1e-5)


def test_what_is_measured_agrees_with_the_single_network():
    module, samples = experiment(momentum=[0.0, 0.9], stop_loss=None), data()
    fit(module, samples, max_epochs=15)
    train, test = samples.train, samples.test
    found = module.measures(train) | module.held_out(test)
    net = CubicPatchCNN(20, 4)
    net.weight = torch.nn.Parameter(module.net.weight.data[1, 0])  # problem 1, setting 0: replica 2
    logits, y, small = net(train.x[1]), train.y[1], train.small_margin[1]
    losses = F.softplus(-y * logits)
    correct = (net(test.x[1]) * test.y[1] > 0).float()
    noise = net.noise_correlations(train.x[1], train.signal_patch[1]).abs().amax((1, 2))
    expected = {
        "train/acc": (logits * y > 0).float().mean(),
        "train/loss": losses.mean(),
        "train/loss_large": losses[~small].mean(),
        "train/loss_small": losses[small].mean(),
        "train/slope_small": torch.sigmoid(-y * logits)[small].sum() / 40,
        "feature/max": net.feature_coefficients(train.signal[1]).max(),
        "noise/large": noise[~small].mean(),
        "noise/small": noise[small].mean(),
        "test/acc_large": correct[~test.small_margin[1]].mean(),
        "test/acc_small": correct[test.small_margin[1]].mean(),
        "updates": torch.tensor(float(module.steps_until(15))),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name][2], value.detach(), rtol=1e-4, atol=1e-6, msg=name)


def test_a_replica_stops_at_the_step_at_which_both_margins_are_fit():
    module, samples = experiment(momentum=[0.0, 0.9], stop_loss=0.2, growth=1.0), data(beta=0.5)
    start = module.net.weight.detach().clone()
    trainer = fit(module, samples, max_epochs=200)
    assert not module.running.any()
    assert trainer.current_epoch < 200  # and the training with the last of them
    free = experiment(momentum=[0.0, 0.9], stop_loss=None)
    free.net.weight.data.copy_(start)
    optimizer = free.configure_optimizers()
    inputs = free.net.prepare(samples.train.x)
    groups = free.groups(samples.train)
    for step in range(int(module.num_updates.max()) + 1):
        losses = F.softplus(-samples.train.y.unsqueeze(1) * free.net(samples.train.x))
        fits = (group_means(losses, groups) < 0.2).all(-1)
        assert torch.equal(fits & (module.num_updates >= step), module.num_updates == step)
        for problem, setting in (module.num_updates == step).nonzero():
            torch.testing.assert_close(module.net.weight[problem, setting], free.net.weight[problem, setting])
        free.net.differentiate(inputs, samples.train.y)
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "samples"),
    [
        (lambda: experiment(momentum=[0.0, 0.9], stop_loss=0.2), lambda: data(beta=0.5)),
        (lambda: experiment(optimizer=lambda params: torch.optim.Adam(params, lr=0.01)), data),
        (
            lambda: TeacherExperiment(num_problems=2, dim=5, hidden_dim=6, momentum=[0.0, 0.9]),
            lambda: TeacherDataModule(num_problems=2, num_train=20, num_test=30, dim=5, seed=0),
        ),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(make, samples, tmp_path):
    modules = []
    for _ in range(3):
        torch.manual_seed(0)
        modules.append(make())
    whole, first, second = modules
    straight = fit(whole, samples(), max_epochs=14)
    fit(first, samples(), max_epochs=7).save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(second, samples(), max_epochs=14, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert history(straight).final_curves == history(resumed).final_curves


def test_the_history_has_every_replica_and_tells_means_of_each_setting():
    module, samples = experiment(momentum=[0.0, 0.9]), data()
    trainer = fit(module, samples, max_epochs=4)
    found = history(trainer)
    table = sweep_table(found.final_curves, module.settings)
    assert [(row["problem"], row["setting"]) for row in table] == [
        (problem, setting) for problem in (0, 1) for setting in ("lr 1, momentum 0", "lr 1, momentum 0.9")
    ]
    expected = (table[1]["feature/max"] + table[3]["feature/max"]) / 2
    assert found.final_metrics["feature/max (lr 1, momentum 0.9)"] == pytest.approx(expected)
    assert found.final_curves["train/acc/3"][0] == [0.0, 10.0, 21.0, 33.0, 46.0]
    assert history(fit(experiment(), samples, max_epochs=1)).final_metrics == {}


def test_mixed_precision_changes_nothing():
    modules = experiment(momentum=0.9), experiment(momentum=0.9)
    for module, precision in zip(modules, ("32-true", "bf16-mixed")):
        fit(module, data(), max_epochs=5, precision=precision)
    assert torch.equal(modules[0].net.weight, modules[1].net.weight)
    assert all(torch.equal(value, modules[1].found[name]) for name, value in modules[0].found.items())


def test_divergence_is_an_error_with_step_and_rate_and_nothing_is_logged():
    module = experiment(lr=[0.1, 1e12], growth=1.0)
    with pytest.raises(DivergenceError, match=r"problem \d diverged after \d steps with lr 1e\+12, momentum 0"):
        fit(module, data(), max_epochs=2)
    assert "train/loss" not in module.found


def test_labels_of_zero_and_one_are_refused_before_work_starts():
    samples = data()
    samples.train = samples.train._replace(y=(samples.train.y + 1) / 2)
    module = experiment()
    with pytest.raises(ValueError, match="labels must be -1 or 1, got 0, 1"):
        fit(module, samples, max_epochs=1)
    assert module.num_updates.sum() == 0


@pytest.mark.filterwarnings("ignore:a problem has no small margin")
@pytest.mark.parametrize(("share", "empty"), [(0.0, "small"), (1.0, "large")])
def test_a_margin_without_samples_is_nan_and_counts_as_fit(share, empty):
    module = experiment(stop_loss=0.3, momentum=0.9)
    fit(module, data(small_margin_fraction=share, alpha=1.0, beta=0.5), max_epochs=40)
    assert module.found[f"train/loss_{empty}"].isnan().all()
    assert module.found[f"noise/{empty}"].isnan().all()
    assert not module.running.any()


def test_one_sample_is_enough():
    module = experiment(num_problems=1)
    with pytest.warns(UserWarning, match="no small margin"):
        samples = data(num_problems=1, num_train=1)
    fit(module, samples, max_epochs=5)
    assert module.found["train/loss"].isfinite().all()


def test_equal_margins_are_told_apart_by_name_only():
    samples = data(beta=1.0)
    module = experiment(momentum=0.5)
    fit(module, samples, max_epochs=10)
    strengths = torch.einsum("anpd,ad->an", samples.train.x, samples.train.signal).abs()
    torch.testing.assert_close(strengths, torch.ones_like(strengths))
    assert module.found["train/loss_small"].isfinite().all()


def test_a_test_measures_the_held_out_samples():
    module, samples = experiment(), data()
    trainer = fit(module, samples, max_epochs=3)
    (metrics,) = trainer.test(module, datamodule=samples, verbose=False)
    assert metrics["test/acc_small"] == pytest.approx(module.held_out(samples.test)["test/acc_small"].mean().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_loss": 0.0}, "stop_loss must be > 0, or None, got 0.0"),
        ({"stop_loss": math.nan}, "stop_loss must be > 0, or None, got nan"),
        ({"lr": [1.0, -1.0]}, "lr must be > 0 and finite, got -1.0"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\), got 1.5"),
        ({"growth": 0.5}, "growth must be at least 1, got 0.5"),
        (
            {"optimizer": torch.optim.Adam, "lr": [0.1, 0.2]},
            "lr and momentum must be one number each with an optimizer of your own",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        experiment(**options)


def test_momentum_learns_the_small_margin_that_descent_memorises():
    """The phenomenon itself, at a fifth of the recipe's size."""
    samples = MarginPatchDataModule(num_problems=1, num_train=100, num_test=400, dim=100, noise_norm=1.8, seed=0)
    torch.manual_seed(0)
    module = MarginExperiment(num_problems=1, dim=100, momentum=[0.0, 0.99])
    fit(module, samples, max_epochs=34)
    descent, momentum = module.found["test/acc_small"].tolist()
    assert module.found["train/acc"].tolist() == [1.0, 1.0]
    assert descent < 0.75
    assert momentum > 0.95


def test_the_optimizer_of_several_settings_has_a_rate_for_each():
    optimizer = experiment(lr=[1.0, 0.5], momentum=[0.0, 0.9]).configure_optimizers()
    assert isinstance(optimizer, EMAMomentumSGD)
    assert optimizer.param_groups[0]["lr"].tolist() == [[1.0, 0.5]] * 2


def test_the_teacher_experiment_learns_and_tells_held_out_accuracy():
    samples = TeacherDataModule(num_problems=2, num_train=200, num_test=500, dim=5, seed=0)
    torch.manual_seed(0)
    module = TeacherExperiment(num_problems=2, dim=5, hidden_dim=20, lr=1.0, momentum=[0.0, 0.9])
    fit(module, samples, max_epochs=25)
    assert module.found["train/acc"].min() > 0.97
    assert module.found["test/acc"].shape == (4,)
    assert module.found["test/acc"].min() > 0.9
