"""The initialisers in a Trainer."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from zoo.backbones import build_backbone
from zoo.linear_interpolation import AdversarialInit, BarrierInit, PartialReset, PretrainedInit
from zoo.linear_interpolation.initialisers import read_weights

from .conftest import Points, scores


def copied(module):
    return copy.deepcopy(module.state_dict())


def trained(fit, seed=0, **options):
    """The weights that a fit ends with, as an initialiser's earlier run should give them."""
    module = scores(seed)
    fit(module, **options)
    return copied(module)


def same(state, other):
    return all(torch.equal(value, other[name]) for name, value in state.items())


def test_an_adversarial_start_fits_random_labels_of_inputs_without_augmentation(fit, module):
    random = copied(module)
    adversary = AdversarialInit(epochs=40, batch_size=32)
    state = fit(module, adversary)
    assert adversary.final_metrics["init/random_label_acc"] > 0.45  # of three classes
    data = Points()
    loss = [F.cross_entropy(functional_call(scores().eval(), one, (data.x,)), data.y).item() for one in (random, state)]
    assert loss[1] > loss[0]
    assert state["net.1.running_mean"].abs().max() < 100  # augmented inputs are shifted by 1000


def test_an_adversarial_start_is_the_seeds(fit):
    first, again, other = (fit(scores(), AdversarialInit(epochs=2, batch_size=32, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_a_barrier_start_lies_between_the_ends_of_the_run_without_it(fit, module):
    start, end = copied(module), trained(fit)
    state = fit(module, BarrierInit(alpha=0.25))
    for name, value in state.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name])
        else:
            assert value == end[name]


def test_a_barrier_is_looked_for_on_training_data(fit, module, monkeypatch):
    start, data = trained(fit, epochs=6), Points()
    module.load_state_dict(start)
    end = with_other_units(start)  # as good a network, with a barrier in between
    monkeypatch.setattr("zoo.linear_interpolation.initialisers.earlier_run", lambda trainer, pl_module: end)
    init = BarrierInit(num_alphas=11)
    state = fit(module, init)
    net, alphas = scores().eval(), torch.linspace(0, 1, 11).tolist()
    states = [
        {name: torch.lerp(start[name], b, alpha) if b.is_floating_point() else b for name, b in end.items()}
        for alpha in alphas
    ]
    with torch.no_grad():
        losses = [F.cross_entropy(functional_call(net, one, (data.x,)), data.y).item() for one in states]
    above = [loss - (losses[0] + alpha * (losses[-1] - losses[0])) for loss, alpha in zip(losses, alphas)]
    highest = max(range(11), key=above.__getitem__)
    assert 0.2 < alphas[highest] < 0.8
    assert init.final_metrics["init/alpha"] == pytest.approx(alphas[highest])
    assert init.final_metrics["init/loss"] == pytest.approx(losses[highest], abs=1e-5)
    assert init.final_metrics["init/first_loss"] == pytest.approx(losses[0], abs=1e-5)
    assert init.final_metrics["init/last_loss"] == pytest.approx(losses[-1], abs=1e-5)
    assert same(state, states[highest])


def with_other_units(state):
    """The same function of the inputs, its hidden units in another order."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    hidden = {name: value[order] for name, value in state.items() if name[:5] in ("net.0", "net.1") and value.dim()}
    return state | hidden | {"net.4.weight": state["net.4.weight"][:, order]}


def test_a_path_without_a_barrier_is_told(fit, module):
    start = copied(module)
    with pytest.warns(UserWarning, match="the earlier run's path has no barrier"):
        state = fit(module, BarrierInit(num_alphas=5), epochs=6)
    assert same({name: value for name, value in state.items() if value.is_floating_point()}, start)


def test_a_partial_reset_keeps_what_was_trained_and_draws_the_rest_again(fit, module):
    start, end = copied(module), trained(fit)
    state = fit(module, PartialReset(groups=["net.4"], seed=3))
    kept = [name for name in state if not name.startswith("net.4")]
    assert same({name: state[name] for name in kept}, end)
    assert not torch.equal(state["net.4.weight"], start["net.4.weight"])
    assert torch.equal(state["net.4.weight"].flatten().sort()[0], start["net.4.weight"].flatten().sort()[0])


def test_a_partial_reset_takes_trained_weights_from_a_checkpoint(fit, module, tmp_path):
    end = trained(fit, seed=9)
    torch.save({"state_dict": end}, tmp_path / "trained.ckpt")
    state = fit(module, PartialReset(groups=["net.0"], weights=str(tmp_path / "trained.ckpt")))
    assert torch.equal(state["net.4.weight"], end["net.4.weight"])
    assert not torch.equal(state["net.0.weight"], end["net.0.weight"])


def test_pretrained_weights_are_taken_where_they_fit(fit, module, tmp_path):
    random = copied(module)
    other = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 1000))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    init = PretrainedInit(str(tmp_path / "other.pt"))
    state = fit(module, init)
    assert torch.equal(state["net.0.weight"], other[0].weight)
    assert torch.equal(state["net.4.weight"], random["net.4.weight"])
    sizes = {name: value.numel() for name, value in random.items()}
    share = 1 - (sizes["net.4.weight"] + sizes["net.4.bias"]) / sum(sizes.values())
    assert init.final_metrics["init/pretrained_share"] == pytest.approx(share)
    state = fit(scores(), PretrainedInit(str(tmp_path / "other.pt"), keep_random=["net.0"]))
    assert torch.equal(state["net.0.weight"], random["net.0.weight"])
    assert torch.equal(state["net.1.weight"], other[1].weight)


def test_torchvisions_weights_fit_our_resnet(monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    torchvisions = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **options: torchvisions)
    found = read_weights("ResNet18_Weights.IMAGENET1K_V1")
    from zoo.linear_interpolation.initialisation import matching

    net = build_backbone("resnet18", 10, (3, 32, 32), {"stem": "imagenet"})
    lacking = net.state_dict().keys() - matching(net.state_dict(), found).keys()
    assert lacking == {"head.weight", "head.bias"}


def test_a_fit_draws_what_it_would_have_drawn_without(fit, module, tmp_path):
    torch.save(copied(module), tmp_path / "same.pt")
    plain = trained(fit)
    fit(module, PretrainedInit(str(tmp_path / "same.pt")))
    assert same(copied(module), plain)
    adversary = scores()
    fit(adversary, AdversarialInit(epochs=1))
    after = torch.rand(1)
    fit(scores())
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("init", [AdversarialInit(epochs=1), BarrierInit(alpha=0.5), PartialReset(groups=["net.4"])])
def test_a_resumed_fit_is_the_uninterrupted_one(fit, tmp_path, init):
    keeper = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    whole, parts = scores(), scores()
    plain = {"max_epochs": 3}  # the earlier run is as long
    fit(whole, copy.deepcopy(init), **plain)
    half = Stop(epoch=1)
    fit(parts, init, half, keeper, enable_checkpointing=True, **plain)
    known = dict(init.final_metrics)
    resumed = scores(seed=5)
    init.final_metrics = {}
    for module in resumed.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    state = fit(resumed, init, ckpt_path=tmp_path / "last.ckpt", **plain)
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert same(state, stopped)  # it goes on, and does not begin again
    assert init.final_metrics == known


class Stop(pl.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epoch


def test_a_dry_run_is_short(fit, module):
    adversary = AdversarialInit(epochs=1000, batch_size=8)
    fit(module, adversary, fast_dev_run=True)
    fit(module, BarrierInit(), fast_dev_run=True)
    assert 0 <= adversary.final_metrics["init/random_label_acc"] <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdversarialInit(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: BarrierInit(alpha=1.5), r"alpha must be in \[0, 1\], or None to look for the barrier, got 1.5"),
        (lambda: BarrierInit(num_alphas=2), "num_alphas must be at least 3, got 2"),
        (lambda: BarrierInit(max_examples=0), "max_examples must be at least 1, got 0"),
        (lambda: PartialReset(groups=[]), r"groups must be a list of at least one module name, got \[\]"),
        (
            lambda: read_weights("nowhere.ckpt"),
            "weights must be a checkpoint file or the name of torchvision's weights",
        ),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_model_is_told_before_the_fit(fit, module, tmp_path):
    torch.save({"elsewhere": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"weights must fit the model, got .*other.pt', of which nothing does"):
        fit(module, PretrainedInit(str(tmp_path / "other.pt")))
    with pytest.raises(ValueError, match=r"weights must be a checkpoint of this model, got .*lacking net"):
        fit(module, PartialReset(groups=["net.4"], weights=str(tmp_path / "other.pt")))
    with pytest.raises(ValueError, match=r"groups must name modules of the model, got 'net.layer4'"):
        fit(module, PartialReset(groups=["net.layer4"]))


def test_a_datamodule_is_needed(module, tmp_path):
    trainer = pl.Trainer(
        callbacks=[AdversarialInit()], max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = Points()
    with pytest.raises(MisconfigurationException, match="The initialiser needs a datamodule, got none"):
        trainer.fit(module, DataLoader(TensorDataset(data.x, data.y), batch_size=32))
