import json
import sys
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from callbacks import DiversityIndexMonitor
from callbacks.diversity_index import diversity_along_path
from datamodules import VisionDataModule
from zoo.auto_conjugate_gradient import (
    ACG,
    APGD,
    AdversarialClassifier,
    AttackEvaluation,
    RobustBenchNetwork,
    RobustTraining,
)
from zoo.auto_conjugate_gradient.evaluation import outside
from zoo.auto_conjugate_gradient.history import paths
from zoo.auto_conjugate_gradient.perturbation import sign_ascent

SHAPE = (1, 8, 8)
MLP = {"hidden_channels": [32]}
FULL = {"eps": 0.1, "n_iter": 12, "early_stop": False, "record_trace": True}


def digits(**options):
    settings = {"batch_size": 64, "eval_batch_size": 50, "normalize": False, "val_fraction": 0.0, "seed": 0}
    return VisionDataModule("digits", **(settings | options))


def classifier(**options):
    torch.manual_seed(0)
    settings = {"eps": 0.1, "input_shape": SHAPE, "backbone": "mlp", "backbone_args": MLP}
    return AdversarialClassifier(10, **(settings | options))


def plan(**options):
    return RobustTraining(**({"backbone": "mlp", "backbone_args": MLP, "eps": 0.1, "max_epochs": 2} | options))


def evaluation(attacks=None, **options):
    attacks = {"acg": ACG(**FULL), "apgd": APGD(**FULL)} if attacks is None else attacks
    settings = {} if "network" in options else {"training": plan()}
    return AttackEvaluation(10, attacks, input_shape=SHAPE, **(settings | options))


@pytest.fixture
def trainer(tmp_path):
    def make(**options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        defaults = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False}
        return pl.Trainer(**(quiet | defaults | options))

    return make


def once(trainer, **options):
    return trainer(max_epochs=1, limit_train_batches=1, **options)


def test_adversarial_training_is_a_step_on_perturbed_images_by_hand(trainer):
    model, twin = classifier(), classifier()
    data = digits(drop_last=True)
    fit = trainer(max_epochs=1, limit_train_batches=3)
    torch.manual_seed(1)
    fit.fit(model, data)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(twin.net.parameters(), lr=0.1, momentum=0.9)
    twin.train()
    for _, (x, y, *_rest) in zip(range(3), data.train_dataloader()):
        moved = sign_ascent(twin.net, x, y, 0.1, 0.125, 1)
        optimizer.zero_grad()
        F.cross_entropy(twin.net(moved), y).backward()
        optimizer.step()
    for one, other in zip(model.net.parameters(), twin.net.parameters()):
        torch.testing.assert_close(one, other)


def test_training_perturbations_stay_in_the_box_and_raise_the_loss():
    net = classifier().net
    x, y = torch.rand(50, *SHAPE), torch.randint(10, (50,))
    losses = []
    for steps in (1, 5, 20):
        torch.manual_seed(0)
        moved = sign_ascent(net, x, y, 0.1, 0.03, steps)
        assert (moved - x).abs().max() <= 0.1 + 1e-6
        assert ((moved >= 0) & (moved <= 1)).all()
        losses.append(F.cross_entropy(net(moved), y).item())
    assert F.cross_entropy(net(x), y).item() < losses[0] < losses[1] < losses[2]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_eps_grows_over_the_ramp(trainer, monkeypatch):
    used = []

    def noted(model, x, y, eps, step_size, num_steps):
        used.append((eps, step_size))
        return x

    monkeypatch.setattr("zoo.auto_conjugate_gradient.module.sign_ascent", noted)
    trainer(max_epochs=3, limit_train_batches=4).fit(classifier(ramp_epochs=2.0), digits())
    shares = [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1, 1, 1, 1]
    assert [eps for eps, _ in used] == pytest.approx([0.1 * share for share in shares])
    assert [size / eps for eps, size in used] == pytest.approx([1.25] * 12)


def test_adversarial_training_makes_a_network_robust(trainer):
    found = {}
    for name, eps in (("plain", 1e-6), ("robust", 0.1)):
        model = classifier(eps=eps)
        fit = trainer(max_epochs=12)
        fit.fit(model, digits())
        model.eps = 0.1
        found[name] = fit.test(model, digits(), verbose=False)[0]
    assert found["plain"]["test/acc"] > 0.9
    assert found["robust"]["test/robust_acc"] > found["plain"]["test/robust_acc"] + 0.15
    assert all(one["test/robust_acc"] < one["test/acc"] for one in found.values())


def test_resumed_adversarial_training_goes_on_bit_for_bit(trainer, tmp_path):
    from zoo.resume import RandomState

    def fit(epochs, ckpt_path=None):
        model = classifier(ramp_epochs=1.5)
        torch.manual_seed(3)
        own = trainer(max_epochs=epochs, callbacks=[RandomState()])
        own.fit(model, digits(), ckpt_path=ckpt_path)
        own.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model.net.state_dict()

    whole = fit(3)
    fit(1)
    resumed = fit(3, tmp_path / "1.ckpt")
    assert all(value.equal(resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, r"eps must be in \(0, 1\]"),
        ({"eps": 8.0}, r"eps must be in \(0, 1\]"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"relative_step_size": 0.0}, "relative_step_size must be > 0"),
        ({"ramp_epochs": -1.0}, "ramp_epochs must be >= 0"),
        ({"eval_steps": 0}, "eval_steps must be at least 1"),
        ({"std": [0.0]}, "std must be > 0"),
    ],
)
def test_settings_of_adversarial_training_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0"),
        ({"momentum": 1.0}, r"momentum must be in \(0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"eps": float("nan")}, "eps must be in"),
    ],
)
def test_settings_of_a_networks_training_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan(**options)


def test_a_network_is_trained_once_and_does_not_depend_on_the_run(monkeypatch, tmp_path):
    fits = []
    fit = RobustTraining.fit
    monkeypatch.setattr(RobustTraining, "fit", lambda self, *args, **kw: fits.append(1) or fit(self, *args, **kw))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(plan(cache_dir=str(tmp_path)).obtain(digits(), 10, SHAPE, enable_progress_bar=False))
        assert torch.get_rng_state().equal(state)
    assert len(fits) == 1
    assert all(value.equal(found[1][name]) for name, value in found[0].items())
    torch.manual_seed(3)
    again = plan(cache_dir=str(tmp_path / "other")).obtain(digits(), 10, SHAPE, enable_progress_bar=False)
    assert all(value.equal(again[name]) for name, value in found[0].items())
    assert len(fits) == 2


def test_another_training_or_other_data_make_another_network():
    folder = plan().folder(digits())
    assert plan().folder(digits()) == folder
    assert plan(cache_dir=str(folder.parents[1])).folder(digits()).name == folder.name
    others = [plan(eps=0.2), plan(seed=1), plan(max_epochs=3)]
    data = [digits(seed=1), digits(train_fraction=0.5), digits(batch_size=32), digits(augment=True)]
    folders = [one.folder(digits()) for one in others] + [plan().folder(one) for one in data]
    assert len({folder, *folders}) == 8


def test_a_damaged_network_is_trained_anew():
    own = plan()
    folder = own.folder(digits())
    folder.mkdir(parents=True)
    (folder / "network.pt").write_bytes(b"half")
    with pytest.warns(UserWarning, match="cannot be read .* trained anew"):
        own.obtain(digits(), 10, SHAPE, enable_progress_bar=False)
    assert torch.load(folder / "network.pt", weights_only=True)


def test_several_processes_are_told_to_train_first():
    data = digits()
    data.trainer = type("Several", (), {"world_size": 2, "global_rank": 0, "strategy": None})()
    data._device = lambda: torch.device("cpu")
    with pytest.raises(MisconfigurationException, match="trained by one process, got 2"):
        plan().obtain(data, 10, SHAPE)


def test_an_evaluation_says_what_the_attacks_found(trainer):
    model, data = evaluation(), digits()
    run = once(trainer)
    run.fit(model, data)
    measured = run.test(model, data, verbose=False)[0]
    x, y, *_ = (torch.cat(parts) for parts in list(zip(*data.test_dataloader()))[:2])
    right = model(x).argmax(1) == y
    results = {name: attack(model.net, x[right], y[right]) for name, attack in model.attacks.items()}
    assert measured["test/acc"] == pytest.approx(right.float().mean().item())
    for name, result in results.items():
        broken = result.success.sum().item()
        assert measured[f"test/num_broken/{name}"] == broken
        assert measured[f"test/num_attacked/{name}"] == right.sum()
        assert measured[f"test/success/{name}"] == pytest.approx(broken / right.sum().item())
        assert measured[f"test/robust_acc/{name}"] == pytest.approx((right.sum().item() - broken) / len(y))
        assert measured[f"test/margin/{name}"] == pytest.approx(result.margin.mean().item(), abs=1e-4)
        assert measured[f"test/gradients/{name}"] == 13
        assert measured[f"test/num_contradicted/{name}"] == measured[f"test/num_outside/{name}"] == 0
        assert measured[f"test/seconds/{name}"] > 0
    acg, apgd = results["acg"], results["apgd"]
    assert measured["test/only/acg_not_apgd"] == (acg.success & ~apgd.success).sum()
    assert measured["test/only/apgd_not_acg"] == (apgd.success & ~acg.success).sum()
    assert measured["test/higher/acg_than_apgd"] == (acg.margin > apgd.margin).sum()
    assert 0 < measured["test/num_broken/acg"] < right.sum()


def test_callbacks_see_curves_and_diversity(trainer):
    model, data, monitor = evaluation(), digits(test_fraction=0.2), DiversityIndexMonitor(window=5)
    run = once(trainer, callbacks=[monitor])
    run.fit(model, data)
    measured = run.test(model, data, verbose=False)[0]
    x, y, *_ = (torch.cat(parts) for parts in list(zip(*data.test_dataloader()))[:2])
    right = model(x).argmax(1) == y
    trace = model.attacks["acg"](model.net, x[right], y[right]).trace
    index = diversity_along_path(trace.points[0], 0.1, window=5)
    assert measured["test/diversity_index/acg"] == pytest.approx(index.mean().item(), abs=1e-4)
    iterations, values = monitor.final_curves["diversity_index/acg"]
    assert iterations == list(range(4, 13))
    assert values == pytest.approx(index.mean(0).tolist(), abs=1e-4)
    history = next(one for one in run.callbacks if type(one).__name__ == "AttackHistory")
    iterations, success = history.final_curves["success/apgd"]
    assert iterations == list(range(13))
    assert success == sorted(success)
    assert success[-1] == pytest.approx(measured["test/success/apgd"])
    assert {f"path/{name}/{i}" for name in ("acg", "apgd") for i in (0, 1)} < set(history.final_curves)


def test_paths_in_the_plane_keep_distances_of_flat_searches():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 2, generator=generator)).Q
    flat = torch.randn(1, 1, 8, 2, generator=generator) @ basis.t() + 0.3
    trace = type("Trace", (), {"points": flat, "eps": 0.5})()
    x, y = paths({"a": trace}, num_paths=3)["path/a/0"]
    drawn = torch.tensor([x, y]).t()
    torch.testing.assert_close(torch.cdist(drawn, drawn), torch.cdist(flat[0, 0], flat[0, 0]) / 0.5, atol=1e-4, rtol=0)
    assert drawn[0].abs().max() < 1e-5


def test_a_checkpoint_of_adversarial_training_can_be_attacked(trainer, tmp_path):
    source = classifier()
    run = trainer(max_epochs=1, limit_train_batches=2)
    run.fit(source, digits())
    run.save_checkpoint(tmp_path / "robust.ckpt")
    model = evaluation({"apgd": APGD(eps=0.1, n_iter=3)})
    once(trainer).test(model, digits(test_fraction=0.2), ckpt_path=tmp_path / "robust.ckpt", verbose=False)
    for name, value in source.net.state_dict().items():
        assert model.net.state_dict()[name].equal(value)


def test_an_evaluations_own_checkpoint_needs_no_training(trainer, tmp_path, monkeypatch):
    data = digits(test_fraction=0.2)
    model = evaluation()
    run = once(trainer)
    run.fit(model, data)
    measured = run.test(model, data, verbose=False)[0]
    run.save_checkpoint(tmp_path / "own.ckpt")
    monkeypatch.setattr(RobustTraining, "obtain", None)
    again = once(trainer).test(evaluation(), data, ckpt_path=tmp_path / "own.ckpt", verbose=False)[0]
    same = [name for name in measured if "seconds" not in name]
    assert {name: again[name] for name in same} == {name: measured[name] for name in same}


def test_a_network_of_ones_own_is_attacked_as_it_is(trainer):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = net[1].weight.clone()
    model = evaluation({"apgd": APGD(eps=0.05, n_iter=3, n_restarts=2)}, network=net)
    measured = once(trainer).test(model, digits(test_fraction=0.2), verbose=False)[0]
    assert net[1].weight.equal(before)
    assert 0 <= measured["test/success/apgd"] <= 1
    batch = next(iter(digits().test_dataloader()))
    assert model.predict_step(batch, 0)["apgd"].x_adv.shape == batch.x.shape


def test_validation_looks_at_clean_images(trainer):
    model = evaluation(network=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    data = digits(val_fraction=0.1)
    measured = once(trainer).validate(model, data, verbose=False)[0]
    x, y, *_ = (torch.cat(parts) for parts in list(zip(*data.val_dataloader()))[:2])
    assert measured["val/acc"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    assert measured["val/loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-4)


def test_points_outside_are_noticed():
    x = torch.full((4, 3), 0.5)
    moved = x + torch.tensor([[0.1], [0.1001], [0.0], [0.0]])
    moved[3, 0] = 1.5
    assert outside(moved, x, APGD(eps=0.1)).tolist() == [False, True, False, True]
    assert outside(moved, x, APGD(norm="L2", eps=0.174)).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": {}}, "attacks must name at least one attack"),
        ({"attacks": {"a/b": ACG()}}, "attacks must have names of letters"),
        ({"num_paths": -1}, "num_paths must be at least 0"),
        ({"training": None}, "one of network and training must be given, got none"),
        ({"training": plan(), "network": nn.Identity()}, "got both"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluation(**options)


def test_a_network_needs_data_to_be_trained(trainer):
    with pytest.raises(MisconfigurationException, match="needs a datamodule"):
        once(trainer).test(evaluation(), digits().test_dataloader(), verbose=False)


def test_robustbench_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "robustbench", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(ImportError, match=r"pip install 'robustbench>=1\.1'"):
        RobustBenchNetwork("Ding2020MMA")


def test_robustbench_networks_are_loaded_by_its_own_package(monkeypatch):
    asked = {}

    def load_model(**options):
        asked.update(options)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    utils.load_model = load_model
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    net = RobustBenchNetwork("Ding2020MMA", threat_model="L2", model_dir="here")
    assert asked == {"model_name": "Ding2020MMA", "dataset": "cifar10", "threat_model": "L2", "model_dir": "here"}
    assert net(torch.rand(2, 3, 2, 2)).shape == (2, 3)


def test_the_command_keeps_what_callbacks_found_in_the_test():
    from zoo.cli import run
    from zoo.recipes import find_recipe

    words = {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "data.test_fraction": "0.02"}
    words |= {"model.training.max_epochs": "1", "model.training.precision": "32-true", "data.batch_size": "64"}
    options = {"eps": 0.3, "n_iter": 12, "early_stop": False, "record_trace": True}
    attacks = {name: {"class_path": f"zoo.auto_conjugate_gradient.{name.upper()}"} for name in ("acg", "apgd")}
    words["model.attacks"] = json.dumps({name: one | {"init_args": options} for name, one in attacks.items()})
    overrides = [word for name, value in words.items() for word in (f"--{name}", value)]
    with pytest.warns(UserWarning, match="STAND-IN"):
        result = run("train", find_recipe("auto_conjugate_gradient_mnist"), overrides)
    assert {"success/acg", "diversity_index/apgd", "path/acg/0"} <= set(result.curves)
    assert result.curves["success/acg"][1][-1] == pytest.approx(result.metrics["test/success/acg"])
    assert result.metrics["test/num_outside/acg"] == 0
