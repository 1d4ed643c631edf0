import copy
import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.gradient_discrepancy import GradientDiscrepancy
from callbacks.stability_bound import ExpectedStabilityBound, IncoherenceBound, LiBound
from callbacks.stability_bound_gap import GeneralizationGap
from zoo.efld import EFLD, SGLD, GaussianNoise, NoisyQuantizedSGD, NoisySignSGD

TRAIN, FRESH, BATCH = 60, 20, 10
BOUNDS = {
    "stability": "bound",
    "mean_inside": "mean_inside",
    "unconditional": "unconditional",
    "condition_fraction": "condition_fraction",
}


def samples(number, seed):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(number, 4, generator=generator), torch.randint(3, (number,), generator=generator))


class Model(pl.LightningModule):
    """A user's own module: a criterion, a forward, one optimizer, and a schedule if one is wanted."""

    def __init__(self, optimizer, gamma=None, net=None):
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.make_optimizer, self.gamma = optimizer, gamma
        self.path = []  # weights, alphas and learning rates before every step

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", self.criterion(self(x), y))

    def on_before_optimizer_step(self, optimizer):
        alphas = [optimizer.alpha_of(group) for group in optimizer.param_groups]
        self.path.append((copy.deepcopy(self.net), alphas))

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.net)
        if self.gamma is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def sgld(net):
    return EFLD(net.parameters(), lr=0.2, alpha=0.3, noise=GaussianNoise())


def train(folder, callbacks, optimizer=sgld, epochs=2, batch_size=BATCH, model=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    model = model or Model(optimizer)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[*callbacks], default_root_dir=folder, **(quiet | options))
    loaders = DataLoader(samples(TRAIN, 1), batch_size), DataLoader(samples(FRESH, 2), 8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
        trainer.fit(model, *loaders, ckpt_path=ckpt_path)
    return model, trainer


def by_hand(model, pairs, every, batch_size=BATCH, smoothness=1.0):
    """The bounds from the weights that the model has kept, one backward pass for each sample."""
    (x, y), (fresh_x, fresh_y) = samples(TRAIN, 1)[:pairs], samples(FRESH, 2)[:pairs]
    x, y = torch.cat([x, fresh_x]), torch.cat([y, fresh_y])
    metrics = (
        ExpectedStabilityBound(TRAIN, batch_size, smoothness),
        LiBound(TRAIN, batch_size),
        IncoherenceBound(TRAIN, batch_size),
    )
    distances = []
    for step, (net, alphas) in enumerate(model.path):
        if step % every == 0:
            seen = net
        params = [p for p in seen.parameters() if p.requires_grad]
        rows = []
        for one, label in zip(x, y):
            found = torch.autograd.grad(model.criterion(seen(one[None]), label[None]), params)
            groups = alphas if len(alphas) > 1 else alphas * len(params)  # one parameter in each of several groups
            rows.append(torch.cat([grad.flatten() / alpha for grad, alpha in zip(found, groups)]))
        g = torch.stack(rows)
        for metric in metrics:
            metric.update(g @ g.T)
        distances.append((g[:pairs] - g[pairs:]).square().sum(1).mean() * alphas[0] ** 2)
    stability, li, other = (metric.compute() for metric in metrics)
    return {f"bound/{name}": stability[key] for name, key in BOUNDS.items()} | {
        "bound/li": li,
        "bound/incoherence": other,
        "discrepancy/mean": torch.stack(distances).mean(),
    }


def agree(callback, expected):
    for name, value in expected.items():
        assert callback.final_metrics[name] == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.parametrize("method", ["gram", "vmap"])
@pytest.mark.parametrize("every", [1, 4])
def test_the_bounds_are_those_of_the_path(tmp_path, method, every):
    callback = GradientDiscrepancy(num_pairs=6, every_n_steps=every, method=method, chunk_size=5)
    model, _ = train(tmp_path, [callback])
    assert len(model.path) == 12
    agree(callback, by_hand(model, 6, every))
    assert sorted(callback.history) == [6, 12]
    assert callback.final_curves["bound/stability"][0] == [6.0, 12.0]


def test_a_falling_learning_rate_changes_alpha_in_every_step(tmp_path):
    callback = GradientDiscrepancy(num_pairs=6, every_n_steps=5)
    model = Model(lambda net: SGLD(net.parameters(), lr=0.2, noise_std=0.05), gamma=0.8)
    train(tmp_path, [callback], model=model)
    alphas = [alpha for _, (alpha,) in model.path]
    assert alphas == pytest.approx([0.25 / 0.8**step for step in range(12)])
    expected = by_hand(model, 6, 5)
    # The condition is told of the mean over the steps that a measurement stands for.
    agree(callback, {name: value for name, value in expected.items() if "condition" not in name and "mean" not in name})


def test_groups_have_alphas_of_their_own(tmp_path):
    def optimizer(net):
        groups = [{"params": [p], "alpha": 0.1 * (i + 1)} for i, p in enumerate(net.parameters())]
        return EFLD(groups, lr=0.2, alpha=1.0, noise=GaussianNoise())

    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=3)
    model, _ = train(tmp_path, [callback], optimizer)
    expected = by_hand(model, 5, 3)
    agree(callback, {name: value for name, value in expected.items() if name.startswith("bound")})


def test_frozen_layers_do_not_count(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    net[0].requires_grad_(False)
    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=3)
    model = Model(lambda net: NoisySignSGD(net.parameters(), lr=0.01, alpha=0.5), net=net)
    train(tmp_path, [callback], model=model)
    agree(callback, by_hand(model, 5, 3))


def test_the_smoothness_is_that_of_the_noise(tmp_path):
    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=3)
    model, _ = train(tmp_path, [callback], lambda net: NoisyQuantizedSGD(net.parameters(), 0.01, 0.5, [-4.0, 0.0, 4.0]))
    agree(callback, by_hand(model, 5, 3, smoothness=16.0))


def test_the_tight_constant_is_that_of_the_noise(tmp_path):
    paper, tight = (GradientDiscrepancy(num_pairs=5, constant=constant) for constant in ("paper", "tight"))
    for callback in (paper, tight):
        train(tmp_path, [callback])
    factor = math.sqrt(9 / 8 * math.exp(1 / 8) / (1 - BATCH / TRAIN) / 20)
    assert tight.final_metrics["bound/stability"] == pytest.approx(factor * paper.final_metrics["bound/stability"])


def test_a_step_gathers_several_batches_and_draws_noise_once(tmp_path):
    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=2)
    model, trainer = train(tmp_path, [callback], accumulate_grad_batches=2)
    assert len(model.path) == 6 == trainer.optimizers[0].num_steps
    agree(callback, by_hand(model, 5, 2, batch_size=2 * BATCH))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_are_measured_in_that_of_the_weights(tmp_path, precision):
    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=2)
    model, _ = train(tmp_path, [callback], precision=precision)
    for net, _ in model.path:
        net.float()
    agree(callback, by_hand(model, 5, 2))


@pytest.mark.parametrize("options", [{}, {"every_n_train_steps": 4}], ids=["after an epoch", "within an epoch"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path, options):
    def callbacks():
        return [GradientDiscrepancy(num_pairs=5, every_n_steps=5), GeneralizationGap()]

    keeper = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, **options)
    whole = callbacks()
    model, trainer = train(tmp_path / "whole", [*whole, keeper], epochs=4)
    checkpoint = tmp_path / ("epoch=1-step=12.ckpt" if not options else "epoch=1-step=8.ckpt")
    resumed = callbacks()
    torch.manual_seed(7)
    again, _ = train(tmp_path / "resumed", resumed, epochs=4, ckpt_path=checkpoint, model=Model(sgld))
    if not options:  # Lightning begins the loader of an epoch anew, so that only weights after whole epochs agree
        for one, other in zip(model.net.parameters(), again.net.parameters()):
            assert torch.equal(one, other)
        assert [callback.history for callback in resumed] == [callback.history for callback in whole]
    else:
        assert resumed[0].history[6] == whole[0].history[6]
        assert resumed[0].metrics["stability"].steps == trainer.global_step


def test_processes_put_their_pairs_together(tmp_path):
    one_step = {"epochs": 1, "limit_train_batches": 1}
    _, several = train(tmp_path, [GradientDiscrepancy(num_pairs=4)], strategy="ddp_fork", devices=2, **one_step)
    alone = GradientDiscrepancy(num_pairs=8)
    train(tmp_path, [alone], batch_size=2 * BATCH, **one_step)
    for name in ("bound/stability", "bound/unconditional", "bound/li", "discrepancy/mean"):
        assert float(several.callback_metrics[name]) == pytest.approx(alone.final_metrics[name], rel=1e-4), name


def test_measuring_does_not_change_the_training(tmp_path):
    watched, _ = train(tmp_path, [GradientDiscrepancy(num_pairs=5, every_n_steps=1), GeneralizationGap()])
    alone, _ = train(tmp_path, [])
    for one, other in zip(watched.net.parameters(), alone.net.parameters()):
        assert torch.equal(one, other)


def test_the_gap_is_that_of_the_errors_in_evaluation_mode(tmp_path):
    gap = GeneralizationGap()
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3))
    train(tmp_path, [gap], model=Model(sgld, net=net), batch_size=16)  # a last batch of 12 counts too
    net.eval()
    errors = [
        (net(data.tensors[0]).argmax(1) != data.tensors[1]).float().mean().item()
        for data in (samples(TRAIN, 1), samples(FRESH, 2))
    ]
    assert gap.final_metrics["gap/train_error"] == pytest.approx(errors[0])
    assert gap.final_metrics["gap/val_error"] == pytest.approx(errors[1])
    assert gap.final_metrics["gap/gap"] == pytest.approx(errors[1] - errors[0])


def test_the_gap_is_measured_every_so_often_and_at_last(tmp_path):
    gap = GeneralizationGap(every_n_epochs=2)
    train(tmp_path, [gap], epochs=5)
    assert sorted(gap.history) == [12, 24, 30]


def test_a_large_batch_is_told_and_gets_the_bound_that_holds(tmp_path):
    callback = GradientDiscrepancy(num_pairs=5)
    with pytest.warns(UserWarning, match="A step takes 40 of 60 samples, and the theorem at most half of them"):
        train(tmp_path, [callback], batch_size=40)
    assert callback.final_metrics["bound/stability"] == callback.final_metrics["bound/unconditional"]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5)])
def test_layers_that_train_otherwise_are_told(tmp_path, layer):
    net = nn.Sequential(layer, nn.Linear(4, 3))
    with pytest.warns(UserWarning, match="takes gradients in evaluation mode"):
        train(tmp_path, [GradientDiscrepancy(num_pairs=5)], model=Model(sgld, net=net))


def test_an_alpha_in_the_groups_is_enough(tmp_path):
    class Own(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.param_groups[0]["alpha"] = 0.5

    callback = GradientDiscrepancy(num_pairs=5, every_n_steps=1)
    model = Model(lambda net: Own(net.parameters()))
    model.on_before_optimizer_step = lambda optimizer: model.path.append((copy.deepcopy(model.net), [0.5]))
    train(tmp_path, [callback], model=model)
    agree(callback, by_hand(model, 5, 1))


def test_an_optimizer_without_alpha_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"one optimizer with alpha_of\(group\), .*, got SGD"):
        train(tmp_path, [GradientDiscrepancy(num_pairs=5)], lambda net: torch.optim.SGD(net.parameters(), lr=0.1))


def test_too_few_samples_are_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="at most 20 with 21 training and 20 validation samples"):
        train(tmp_path, [GradientDiscrepancy(num_pairs=21)])


@pytest.mark.parametrize("callback", [GradientDiscrepancy(num_pairs=5), GeneralizationGap()])
def test_fresh_samples_are_needed(tmp_path, callback):
    with pytest.raises(MisconfigurationException, match="one validation dataloader is needed, for fresh samples"):
        train(tmp_path, [callback], limit_val_batches=0)


def test_a_module_without_a_criterion_needs_one_in_the_callback(tmp_path):
    model = Model(sgld)
    criterion = model.criterion
    model.criterion = None
    model.training_step = lambda batch, batch_idx: criterion(model(batch[0]), batch[1])
    model.validation_step = lambda batch, batch_idx: None
    with pytest.raises(MisconfigurationException, match="needs a criterion, or a module that has one, got Model"):
        train(tmp_path, [GradientDiscrepancy(num_pairs=5)], model=model)
    callback = GradientDiscrepancy(num_pairs=5, criterion=criterion)
    train(tmp_path, [callback], model=model)
    assert callback.final_metrics["bound/stability"] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDiscrepancy(num_pairs=1), "num_pairs must be at least 2, got 1"),
        (lambda: GradientDiscrepancy(every_n_steps=0), "every_n_steps must be at least 1, got 0"),
        (lambda: GradientDiscrepancy(method="loop"), "method must be one of gram, vmap, got 'loop'"),
        (lambda: GradientDiscrepancy(chunk_size=0), "chunk_size must be at least 1, got 0"),
        (lambda: GradientDiscrepancy(constant="best"), "constant must be one of paper, tight, got 'best'"),
        (lambda: GradientDiscrepancy(loss_range=math.nan), "loss_range must be > 0 and finite, got nan"),
        (lambda: GeneralizationGap(every_n_epochs=0), "every_n_epochs must be at least 1, got 0"),
    ],
)
def test_callback_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
