import pytest
import pytorch_lightning as pl
import torch

from callbacks import BalancednessMonitor, LimitCheck, RankOneMonitor, RateFit
from datamodules import WhitenedRegressionDataModule
from zoo.deep_linear import DeepLinearModule, DeepLinearNet, RankOneFlow, Start, euler_
from zoo.simulation import ReplicaHistory

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
DIMS = [5, 3, 1, 4]


def data(**options):
    return WhitenedRegressionDataModule(**options)


def module(datamodule, seed=0, **options):
    torch.manual_seed(seed)
    return DeepLinearModule(**{"dims": DIMS, "target": datamodule.target, "growth": 1.1} | options)


def fit(model, datamodule, folder, max_epochs=10, callbacks=(), **options):
    trainer = pl.Trainer(
        max_epochs=max_epochs, default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=False, **QUIET
    )
    trainer.fit(model, datamodule=datamodule, **options)
    return trainer


def history(trainer):
    return next(one for one in trainer.callbacks if isinstance(one, ReplicaHistory))


def test_what_is_measured_is_what_the_weights_say(tmp_path):
    source = data(noise_std=0.3)
    model = module(source, starts=[Start("random", number=2), Start("saddle")])
    trainer = fit(model, source, tmp_path, max_epochs=20)
    x, y = (side[0] for side in source.batch)
    W = model.net.product().detach()
    found = model.found
    expected = torch.stack([(x @ one.mT - y).square().sum() / 2 for one in W])
    torch.testing.assert_close(found["loss"], expected)
    limits = torch.stack([(x @ one.mT - y).square().sum() / 2 for one in model.predicted_limit])
    torch.testing.assert_close(found["loss_gap"], expected - limits)
    torch.testing.assert_close(found["distance"], torch.linalg.matrix_norm(W - model.predicted_limit))
    torch.testing.assert_close(found["time"], torch.full((3,), 0.02 * model.steps_until(20), dtype=torch.float64))
    assert found["flow_error"].max() < 1e-8
    assert trainer.callback_metrics["loss"].item() == pytest.approx(expected.mean().item())
    assert len(history(trainer).final_curves["loss/2"][1]) == 21


@pytest.mark.parametrize("integrator", ["euler", "rk4", "dopri8"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(integrator, tmp_path):
    source = data()
    options = {"integrator": integrator, "starts": [Start("random", number=2), Start("saddle")]}
    probes = lambda: [BalancednessMonitor(), RankOneMonitor(), RateFit("distance", (0.1, 1.0), time="time")]  # noqa: E731
    whole = module(source, **options)
    uninterrupted = fit(whole, source, tmp_path, 8, probes())
    first = module(source, **options)
    fit(first, source, tmp_path, 4, probes()).save_checkpoint(tmp_path / "half.ckpt")
    second = module(source, seed=1, **options)  # other starts, which the checkpoint replaces
    resumed = fit(second, source, tmp_path, 8, probes(), ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert history(resumed).final_curves == history(uninterrupted).final_curves
    for ours, theirs in zip(resumed.callbacks, uninterrupted.callbacks):
        assert getattr(ours, "final_curves", {}) == getattr(theirs, "final_curves", {})
        assert getattr(ours, "final_metrics", {}) == getattr(theirs, "final_metrics", {})


def test_an_epoch_of_many_steps_is_the_steps_one_by_one(tmp_path):
    source = data()
    model = module(source, integrator="euler", steps_per_epoch=40, growth=1.5)
    alone = DeepLinearNet(DIMS)
    alone.flat.data = model.net.flat.data.clone()
    fit(model, source, tmp_path, max_epochs=3)
    target = source.batch.y.mT @ source.batch.x
    euler_(alone, target, torch.tensor([[0.02]], dtype=torch.float64), 40 + 60 + 90)
    assert torch.equal(model.net.flat, alone.flat)


def test_step_sizes_and_targets_make_replicas_of_each(tmp_path):
    source = data(singular_values=[[3.0, 1.0], [2.0, 1.0]])
    model = module(source, integrator="euler", step_size=[0.01, 0.02], starts=[Start("aligned"), Start("aligned", s=2)])
    fit(model, source, tmp_path, max_epochs=2)
    assert model.found["time"].tolist() == [0.02, 0.04] * 4
    s = torch.linalg.matrix_norm(model.net.product())
    assert (s[:2] < 0.7).all()
    assert ((s[2:4] > 2.0) & (s[2:4] < 2.3)).all()  # the second start of the first target rises
    torch.testing.assert_close(s[6:], torch.full((2,), 2.0, dtype=torch.float64))  # that of the second is at its limit


def test_the_time_until_a_limit_is_near_is_that_of_the_closed_form(tmp_path):
    source = data()
    starts = [Start("aligned", s=s) for s in (1e-4, 1e-3, 2.0)] + [Start("opposite")]
    model = module(source, starts=starts, integrator="rk4", growth=1.1)
    fit(model, source, tmp_path, max_epochs=70)
    expected = model.flow.stage_times().half
    torch.testing.assert_close(model.found["stuck_time"][:3], expected[:3], rtol=2e-3, atol=0)
    assert model.found["stuck_time"][3] == model.found["time"][3]  # so far


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_divergence_is_told_with_its_step_and_its_rate(integrator, tmp_path):
    source = data()
    options = {"integrator": integrator, "step_size": [0.01, 1.5], "steps_per_epoch": 60, "growth": 1.0}
    model = module(source, **options)
    alone = module(source, **options)
    with pytest.raises(ValueError, match=r"replica 1 has diverged by step (\d+) with step_size \(lr\) 1.5") as caught:
        fit(model, source, tmp_path)
    told = int(str(caught.value).split("by step ")[1].split()[0])
    limits = []
    for number in (told - 1, told):
        again = module(source, **options)
        again.advance(source.batch, 0, 0)
        again._integrate(source.target.expand(2, -1, -1), [0, number])
        limits.append(bool(again.net.flat[1].abs().max() < 1e15))
    assert limits == [True, False]
    assert alone.net.flat.isfinite().all()


def test_a_replica_that_diverges_may_be_frozen_and_leaves_the_others_alone(tmp_path):
    source = data()
    torch.manual_seed(0)
    model = module(source, integrator="euler", step_size=[0.01, 1.5], on_divergence="freeze", steps_per_epoch=30)
    alone = module(source, integrator="euler", step_size=0.01, steps_per_epoch=30)
    alone.net.flat.data = model.net.flat.data[:1].clone()
    trainer = fit(model, source, tmp_path, max_epochs=4)
    fit(alone, source, tmp_path, max_epochs=4)
    assert model.found["diverged"].tolist() == [0, 1]
    assert torch.equal(model.net.flat[0], alone.net.flat[0])
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


def test_probes_of_a_recipe_see_the_flow(tmp_path):
    source = data()
    model = module(source, starts=[Start("random"), Start("saddle")], growth=1.1)
    monitor, rank, check = BalancednessMonitor(), RankOneMonitor(), LimitCheck(tolerance=1e-2, must_reach=True)
    rates = RateFit("distance", (4.0, 8.0), time="time")
    trainer = fit(model, source, tmp_path, 42, [monitor, rank, check, rates])
    assert check.final_metrics["limit/reached"] == 1
    assert trainer.callback_metrics["balancedness"] < 1e-9
    predicted = model.flow.rates().product
    found = [rates.final_metrics[f"rate/distance/{i}"] for i in range(2)]
    assert found == pytest.approx(predicted.tolist(), rel=0.02)
    rho = torch.tensor(rank.final_curves["rho/0"][1])
    assert (rho.diff() > -1e-9).all()
    state = model.flow.solve_time(torch.tensor(history(trainer).final_curves["time/0"][1]))
    torch.testing.assert_close(rho.double(), state.rho[0], rtol=0, atol=1e-6)


def test_data_that_do_not_fit_are_refused(tmp_path):
    source = data()
    with pytest.raises(ValueError, match=r"target must be y\^T x of the batch"):
        fit(module(data(singular_values=[1.0])), source, tmp_path)
    source.batch = source.batch._replace(x=2 * source.batch.x)
    with pytest.raises(ValueError, match="the inputs of the batch must be whitened"):
        fit(module(source), source, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integrator": "rk45"}, "integrator must be one of euler, rk4, dopri5, dopri8, got 'rk45'"),
        ({"step_size": 0.0}, r"step_size must be > 0, one or several, got \[0.0\]"),
        ({"step_size": float("nan")}, "step_size must be > 0"),
        ({"step_size": [], "integrator": "euler"}, "step_size must be > 0, one or several"),
        ({"step_size": [0.1, 0.2]}, "step_size must be one number for dopri8"),
        ({"rtol": 1e-15}, "rtol must be at least 1e-14"),
        ({"zero_tolerance": -1.0}, "zero_tolerance must be >= 0, got -1.0"),
        ({"atol": -1.0}, "atol must be > 0, got -1.0"),
        ({"starts": []}, "starts must hold at least one start"),
        ({"on_divergence": "ignore"}, "on_divergence must be one of raise, freeze, got 'ignore'"),
        ({"dims": [5, 1, 3]}, r"target must have the shape \(3, 5\)"),
        ({"growth": 0.5}, "growth must be at least 1"),
    ],
)
def test_a_module_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        module(data(), **options)


def test_a_module_is_loaded_from_its_checkpoint(tmp_path):
    source = data()
    model = module(source, starts=[Start("saddle", s=0.1), Start("aligned")])
    fit(model, source, tmp_path, 2).save_checkpoint(tmp_path / "it.ckpt")
    loaded = DeepLinearModule.load_from_checkpoint(tmp_path / "it.ckpt", target=source.target)
    assert torch.equal(loaded.net.flat, model.net.flat)
    torch.testing.assert_close(loaded.predicted_limit, model.predicted_limit)


def test_the_flow_belongs_to_the_module():
    model = module(data())
    assert isinstance(model.flow, RankOneFlow)
    assert model.flow is model.flow
