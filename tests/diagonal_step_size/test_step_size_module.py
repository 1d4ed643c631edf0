import math

import pytest
import pytorch_lightning as pl
import torch

from callbacks import StabilityMonitor
from datamodules import SparseRegressionDataModule
from zoo.diagonal_step_size import (
    DivergenceError,
    StepSizeBiasModule,
    StepSizeSweep,
    gradient_flow_limit,
    population_error,
)
from zoo.diagonal_step_size.module import SweepTable

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SIZES = {"num_problems": 2, "num_samples": 15, "num_features": 25, "sparsity": 2}


def module(**options):
    sizes = {"num_problems": 2, "dim": 25, "lr": [0.5, 1.5], "init_scale": [0.3, 0.5]}
    return StepSizeBiasModule(**(sizes | {"lr_relative_to": "init_sharpness", "steps_per_epoch": 10} | options))


def fit(model, folder, max_epochs, callbacks=(), ckpt_path=None, **data):
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=list(callbacks), default_root_dir=folder, **QUIET)
    trainer.fit(model, datamodule=SparseRegressionDataModule(**(SIZES | {"seed": 0} | data)), ckpt_path=ckpt_path)
    return trainer


def curves(trainer):
    return {name: curve for one in trainer.callbacks for name, curve in getattr(one, "final_curves", {}).items()}


def test_an_epoch_is_a_part_of_the_sweep_and_is_measured(tmp_path):
    model = module()
    trainer = fit(model, tmp_path, 4)
    x, y, beta, _ = SparseRegressionDataModule(**SIZES, seed=0).batch
    sweep = StepSizeSweep(2, 25, [0.5, 1.5], [0.3, 0.5], "init_sharpness")
    for num_steps in (10, 12, 14, 18):  # 10 * 1.2 ** e, rounded at the ends: 54 = round(53.68)
        sweep.run(x, y, num_steps)
    torch.testing.assert_close(model.sweep.beta, sweep.beta)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged["steps"] == 54
    assert logged["train/loss"] == pytest.approx(sweep.loss.mean().item())
    error = sweep.beta - beta.unsqueeze(1)
    expected = error.square().sum(-1) + (5 * error.sum(-1)).square()
    assert logged["population_error"] == pytest.approx(expected.mean().item())
    kept = curves(trainer)
    assert kept["population_error/3"][0] == [0, 10, 22, 36, 54]
    assert kept["population_error/3"][1][-1] == pytest.approx(expected.flatten()[3].item())
    flow = gradient_flow_limit(x[1], y[1], 0.3)
    assert kept["flow_distance/4"][1][-1] == pytest.approx((sweep.beta[1, 0] - flow).abs().max().item())


def test_a_resumed_sweep_ends_as_one_that_was_not_interrupted(tmp_path):
    whole, first, second = (module(on_divergence="record", lr=[0.5, 1.4, 2.5]) for _ in range(3))
    expected = curves(fit(whole, tmp_path / "whole", 16))
    fit(first, tmp_path / "first", 9).save_checkpoint(tmp_path / "half.ckpt")
    found = curves(fit(second, tmp_path / "second", 16, ckpt_path=tmp_path / "half.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert found == expected


def test_the_run_keeps_a_table_and_what_to_compare_it_with(tmp_path, capsys):
    model = module(lr=[0.5, 1.5, 30.0], on_divergence="record")
    kept = curves(fit(model, tmp_path, 12))
    batch = SparseRegressionDataModule(**SIZES, seed=0).batch
    rows = model.table(batch)
    assert [row["status"] for row in rows].count("diverged") == 4
    assert kept["table/status"][1] == [2.0 if row["status"] == "diverged" else 0.0 for row in rows]
    for name in ("population_error", "loss", "lr", "last_step"):
        assert kept[f"table/{name}"][1] == [row[name] for row in rows]
    references = model.references(batch)
    assert {name: value.numel() for name, value in references.items()} == {
        "init_sharpness": 12,
        "flow": 12,
        "effective_flow": 12,
        "min_l2": 2,
        "min_l1": 2,
        "critical": 2,
    }
    assert kept["reference/critical"][1] == references["critical"].tolist()
    shrunk = gradient_flow_limit(batch.x[0], batch.y[0], model.sweep.effective_init_scale()[0, 1].median())
    error = population_error(shrunk, batch.beta[0], batch.mean)
    torch.testing.assert_close(references["effective_flow"][1], error)
    torch.testing.assert_close(references["init_sharpness"].view(2, 6)[:, 0] * 0.5, model.sweep.lr[:, 0])
    assert (references["min_l1"] < references["min_l2"]).all()
    assert all(math.isfinite(value) for _, values in kept.values() for value in values)
    shown = capsys.readouterr().out
    assert "by step size" in shown
    assert shown.count("\n") > 6


def test_a_sweep_whose_replicas_have_all_ended_ends_the_training(tmp_path):
    model = module(lr=[0.5], init_scale=0.3, tol=1e-3)
    trainer = fit(model, tmp_path, 100, feature_mean=0.0)
    assert trainer.current_epoch < 60
    assert (model.sweep.loss < 1e-3).all()


def test_divergence_ends_the_training_with_step_and_step_size(tmp_path):
    with pytest.raises(DivergenceError, match=r"at step \d+ the loss is above 1e\+08, lr [\d.e-]+ \(2.5 of init_sharp"):
        fit(module(lr=2.5), tmp_path, 20)


def test_data_that_nothing_interpolates_has_no_critical_step_size(tmp_path):
    model = module(lr=0.5)
    with pytest.warns(UserWarning, match="a determined problem"):
        kept = curves(fit(model, tmp_path, 6, num_samples=40, noise_std=0.1))
    assert "reference/critical" not in kept
    assert len(kept["reference/flow"][1]) == 4


def test_mixed_precision_changes_nothing(tmp_path):
    plain, mixed = module(), module()
    fit(plain, tmp_path, 6)
    data = SparseRegressionDataModule(**SIZES, seed=0)
    pl.Trainer(max_epochs=6, default_root_dir=tmp_path, precision="bf16-mixed", **QUIET).fit(mixed, datamodule=data)
    assert torch.equal(plain.sweep.u, mixed.sweep.u)
    assert torch.equal(plain.found["sharpness_ratio"], mixed.found["sharpness_ratio"])


def test_the_monitor_sees_what_a_sweep_does(tmp_path):
    monitor = StabilityMonitor()
    sizes = {"num_samples": 60, "num_features": 100, "sparsity": 3}
    model = module(dim=100, lr=[0.5, 1.7], init_scale=0.3)
    trainer = fit(model, tmp_path, 20, [monitor], **sizes)
    start = SparseRegressionDataModule(2, **sizes, seed=0).batch.y.square().mean(1) / 2
    assert monitor.catapult.tolist() == (model.sweep.peak_loss > 10 * start[:, None]).flatten().tolist()
    assert monitor.catapult.tolist() == [False, True, False, True]
    assert trainer.callback_metrics["stability/catapults"] == 0.5
    ratios = model.found["sharpness_ratio"]
    assert trainer.callback_metrics["stability/ratio"].item() == pytest.approx(ratios.mean().item())


def test_an_untrained_module_has_no_table():
    callback = SweepTable()
    callback.on_train_end(None, module())
    assert callback.final_curves == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of 'float64', 'float32', got 'float16'"),
        ({"lr": -0.1}, "lr must be > 0, got -0.1"),
        ({"init_scale": 0.0}, "init_scale must be > 0, got 0.0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        ({"growth": 0.9}, "growth must be at least 1, got 0.9"),
    ],
)
def test_wrong_arguments_of_a_module_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)
