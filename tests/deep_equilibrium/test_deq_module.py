import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from zoo.deep_equilibrium import DEQClassifier, FixedPointSolver, LengthMapExperiment, length_map
from zoo.deep_equilibrium.replica_mean import ReplicaMean

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SMALL = {"num_classes": 3, "input_shape": (1, 4, 4), "width": 8, "if_not_converged": "ignore"}


def batches(num=60, seed=0):
    """Three classes of images that are far apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    x = torch.randn(num, 1, 4, 4, generator=generator)
    x[torch.arange(num), 0, y] += 3
    return DataLoader(TensorDataset(x, y), batch_size=20)


def classifier(seed=0, **arguments):
    torch.manual_seed(seed)
    return DEQClassifier(**{**SMALL, **arguments})


def fit(model, folder, *, max_epochs=3, ckpt_path=None, **trainer):
    trainer = pl.Trainer(max_epochs=max_epochs, default_root_dir=folder, **QUIET, **trainer)
    trainer.fit(model, batches(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "hardtanh"])
def test_every_replica_learns(activation, tmp_path):
    model = classifier(activation=activation, sigma_w=[0.5, 0.8], num_replicas=2)
    model.make_optimizer = partial(torch.optim.Adam, lr=1e-2)
    trainer = fit(model, tmp_path, max_epochs=8)
    found = trainer.test(model, batches(seed=1), verbose=False)[0]
    accuracies = [found[f"test/acc/{i}"] for i in range(4)]
    assert min(accuracies) > 0.9
    assert found["test/acc"] == pytest.approx(sum(accuracies) / 4)
    assert trainer.callback_metrics["test/loss"] < 0.5


def test_scales_come_one_after_another():
    weight = classifier(family="orthogonal", sigma_w=[0.5, 0.8], num_replicas=2).net.cell.weight
    norms = torch.linalg.matrix_norm(weight, 2)
    torch.testing.assert_close(norms.detach(), torch.tensor([0.5, 0.5, 0.8, 0.8]))


def test_replicas_share_nothing_but_the_batch():
    model = classifier(sigma_w=[0.4, 0.9], num_replicas=2, activation="tanh", jacobian_weight=0.0)
    batch = next(iter(batches()))
    model.training_step(batch, 0).backward()
    for i in range(4):
        alone = classifier(activation="tanh")
        with torch.no_grad():
            for own, stacked in zip(alone.net.parameters(), model.net.parameters()):
                own.copy_(stacked[i : i + 1])
        alone.training_step(batch, 0).backward()
        for own, stacked in zip(alone.net.parameters(), model.net.parameters()):
            torch.testing.assert_close(own.grad, stacked.grad[i : i + 1], rtol=1e-4, atol=1e-6)


def test_a_linear_network_is_a_dense_solve():
    model = classifier(solver=FixedPointSolver(max_iter=500, tol=1e-7), sigma_w=0.7)
    x, y = next(iter(batches()))
    net = model.net
    u = x.flatten(1) @ net.input_weight[0].T + net.input_bias[0]
    z = torch.linalg.solve(torch.eye(8) - net.cell.weight[0], u.T).T
    expected = z @ net.head_weight[0].T + net.head_bias[0]
    torch.testing.assert_close(model(x)[0], expected, rtol=1e-4, atol=1e-5)
    loss = model.training_step((x, y), 0)
    torch.testing.assert_close(loss, F.cross_entropy(expected, y), rtol=1e-4, atol=1e-5)


def test_a_resumed_run_ends_as_one_that_went_through(tmp_path):
    options = {"activation": "tanh", "num_replicas": 2, "jacobian_weight": 0.1}
    whole = classifier(**options)
    pl.seed_everything(1)
    fit(whole, tmp_path / "whole", max_epochs=2)
    first = classifier(**options)
    pl.seed_everything(1)
    path = tmp_path / "first.ckpt"
    fit(first, tmp_path / "first", max_epochs=1).save_checkpoint(path)
    state = torch.get_rng_state()
    second = classifier(seed=5, **options)
    torch.set_rng_state(state)  # as the command line does
    fit(second, tmp_path / "second", max_epochs=2, ckpt_path=path)
    for ours, theirs in zip(second.parameters(), whole.parameters()):
        assert torch.equal(ours, theirs)


def test_a_replica_that_is_not_finite_stops_no_other_and_no_log_is_nan(tmp_path):
    model = classifier(num_replicas=3, sigma_w=0.5)
    with torch.no_grad():
        model.net.cell.weight[1, 0, 0] = math.inf
    before = [parameter[1].clone() for parameter in model.net.parameters()]
    trainer = fit(model, tmp_path)
    logged = trainer.callback_metrics
    assert logged["train/diverged"] == 1
    assert logged["train/loss/1"] == math.inf
    assert logged["train/loss/0"].isfinite()
    assert not any(math.isnan(value) for value in logged.values())
    for parameter, old in zip(model.net.parameters(), before):
        assert torch.equal(parameter[1], old)
        assert parameter[[0, 2]].isfinite().all()
    assert trainer.test(model, batches(), verbose=False)[0]["test/acc/1"] == 0


def test_the_penalty_keeps_the_jacobian_small(tmp_path):
    plain, kept = classifier(sigma_w=0.9), classifier(sigma_w=0.9, jacobian_weight=5.0)
    for model in (plain, kept):
        model.make_optimizer = partial(torch.optim.Adam, lr=1e-2)
        fit(model, tmp_path, max_epochs=20)
    assert kept.net.cell.weight.norm() < 0.7 * plain.net.cell.weight.norm()


@pytest.mark.parametrize("gradient", ["implicit", "phantom", "unrolled"])
def test_mixed_precision_trains_and_converges(gradient, tmp_path):
    solver = FixedPointSolver(max_iter=200, tol=1e-5)
    model = classifier(sigma_w=0.5, solver=solver, gradient=gradient, jacobian_weight=0.1, if_not_converged="error")
    trainer = fit(model, tmp_path, precision="bf16-mixed")
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert model.net.deq.forward_stats.all_converged


def test_epochs_are_averaged_over_uneven_batches():
    metric = ReplicaMean(1)
    metric.update(torch.tensor([[1.0, 1.0, 1.0]]))
    metric.update(torch.tensor([[5.0]]))
    means, left_out = metric.compute()
    assert means == 2
    assert not left_out
    assert ReplicaMean(2).compute()[0].tolist() == [math.inf, math.inf]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma_w": []}, r"sigma_w must be a number or a list of some, got \[\]"),
        ({"sigma_w": [0.5, -1.0]}, "sigma_w must be >= 0"),
        ({"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
        ({"jacobian_weight": -1.0}, "jacobian_weight must be >= 0, got -1.0"),
        ({"jacobian_weight": math.nan}, "jacobian_weight must be >= 0, got nan"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"family": "haar"}, "family must be one of"),
        ({"gradient": "exact"}, "gradient must be one of"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier(**arguments)


# The theory, measured.


def experiment(**arguments):
    torch.manual_seed(0)
    return LengthMapExperiment(**{"width": 64, "num_draws": 10, "num_inputs": 40, "steps_per_epoch": 3, **arguments})


def simulate(module, folder, max_epochs=2, ckpt_path=None):
    trainer = pl.Trainer(max_epochs=max_epochs, default_root_dir=folder, **QUIET)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def test_the_experiment_measures_the_length_and_the_exact_residual_of_orthogonal_matrices(tmp_path):
    module = experiment(family="orthogonal", sigma_w=[0.3, 0.6])
    simulate(module, tmp_path)
    found = module.found
    expected = torch.tensor([length_map("orthogonal", sigma_w) for sigma_w in (0.3, 0.6)], dtype=torch.float64)
    torch.testing.assert_close(found["matrix/length_map"], expected, rtol=0.05, atol=0)
    torch.testing.assert_close(found["iteration/residual"], torch.tensor([0.3, 0.6], dtype=torch.float64) ** 12)


def test_iteration_of_the_goe_leaves_the_residual_of_the_catalan_numbers():
    module = experiment(family="goe", sigma_w=[1.0], width=256, num_draws=20)
    module.on_fit_start()
    for k in range(6):
        catalan = math.comb(2 * k, k) / (k + 1) / 4**k
        assert module.measures(None)["iteration/residual"].item() == pytest.approx(
            catalan, rel=0.08
        )  # of infinite width
        module.advance(None, k, 1)


def test_a_resumed_experiment_goes_on_exactly(tmp_path):
    whole = experiment(sigma_w=[0.5])
    simulate(whole, tmp_path, max_epochs=2)
    path = tmp_path / "half.ckpt"
    simulate(experiment(sigma_w=[0.5]), tmp_path, max_epochs=1).save_checkpoint(path)
    torch.manual_seed(7)
    second = LengthMapExperiment(width=64, num_draws=10, num_inputs=40, steps_per_epoch=3, sigma_w=[0.5])
    simulate(second, tmp_path, ckpt_path=path)
    assert {name: value.tolist() for name, value in second.found.items()} == {
        name: value.tolist() for name, value in whole.found.items()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"num_inputs": 1}, "num_inputs must be at least 2, got 1"),
        ({"sigma_w": []}, "the length of sigma_w must be at least 1, got 0"),
        ({"sigma_w": [-0.5]}, r"sigma_w must be >= 0, got \[-0.5\]"),
        ({"family": "haar"}, "family must be one of"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
    ],
)
def test_experiments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(**arguments)
