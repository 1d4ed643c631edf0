"""The callbacks in a Trainer."""

import csv
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset, WeightedRandomSampler

from callbacks import LayerwiseNeuralCollapse, NeuralCollapseCallback
from callbacks.evaluation_data import in_order
from callbacks.neural_collapse import nearest_class_center, neural_collapse
from callbacks.neural_collapse_capture import captured, evaluating
from callbacks.neural_collapse_plot import draw_collapse

K, SIZE = 3, 50


class Net(pl.LightningModule):
    """A user's own module, with dropout, batch normalisation and a layer that stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Dropout(0.5))
        self.last = nn.Linear(8, K)
        self.frozen = nn.BatchNorm1d(2, affine=False)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        return self.last(self.hidden(self.conv(x)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def images():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(K, (SIZE,), generator=generator)
    return torch.randn(SIZE, 1, 4, 4, generator=generator) + target[:, None, None, None], target


class Images(pl.LightningDataModule):
    """Shuffled batches, of which the last is dropped; disturbed where ``augment`` is set, and in a hook in training."""

    def __init__(self):
        super().__init__()
        self.augment = self.drop_last = True
        self.batch_size, self.eval_batch_size = 8, 20
        self.x, self.y = images()

    def train_dataloader(self):
        x = self.x + torch.randn(self.x.shape) if self.augment else self.x
        return DataLoader(TensorDataset(x, self.y, self.y), self.batch_size, shuffle=True, drop_last=self.drop_last)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [1 - batch[0], *batch[1:]] if self.trainer.training else batch


@pytest.fixture
def fit(tmp_path):
    """Fits a module; gives the module and the Trainer."""

    def run(*callbacks, epochs=2, module=None, data=None, loader=None, ckpt_path=None, **options):
        pl.seed_everything(0)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        defaults = {"logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
        trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **(quiet | defaults | options))
        module = Net() if module is None else module
        source = {"datamodule": data or Images()} if loader is None else {"train_dataloaders": loader}
        trainer.fit(module, ckpt_path=ckpt_path, **source)
        return module, trainer

    return run


@torch.no_grad()
def direct(module, layer=None, data=None, **options):
    """What the results of a layer should be."""
    x, y = data or images()
    with evaluating(module):
        features = module.hidden(module.conv(x))
        results = neural_collapse(features, y, module.last.weight, module.last.bias, **options)
        if layer is not None:
            hidden, decisions = layer(module, x), module(x).argmax(dim=1)
            results = neural_collapse(hidden, y, **options)
            means = torch.stack([hidden[y == k].mean(dim=0) for k in range(K)])
            results["ncc_agreement"] = (nearest_class_center(hidden, means) == decisions).double().mean()
    return {name: float(value) for name, value in results.items()}


def last(probe, prefix="nc/"):
    return {name.removeprefix(prefix): value for name, value in probe.final_metrics.items() if name.startswith(prefix)}


@pytest.mark.parametrize("cache_bytes", [2**28, 0, 700])
def test_the_last_epoch_is_measured_as_a_direct_computation_does(fit, cache_bytes):
    probe = NeuralCollapseCallback(cache_bytes=cache_bytes, bias_target="1/K", global_mean="class")
    module, trainer = fit(probe)
    expected = direct(module, bias_target="1/K", global_mean="class")
    assert last(probe) == pytest.approx(expected, rel=1e-5)
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == probe.final_metrics


def test_one_pass_gives_the_same_without_the_agreement(fit):
    probe = NeuralCollapseCallback(two_pass=False)
    module, _ = fit(probe)
    expected = direct(module)
    del expected["ncc_agreement"]
    assert last(probe) == pytest.approx(expected, rel=1e-5)


def test_every_layer_is_measured_in_the_order_of_the_arguments(fit):
    flat = LayerwiseNeuralCollapse({"second": "hidden", "first": "conv"})
    pooled = LayerwiseNeuralCollapse({"first": "conv"}, reduction="pool", prefix="pooled")
    module, _ = fit(flat, pooled)
    order = [name.split("/")[1] for name in flat.final_metrics]
    assert list(dict.fromkeys(order)) == ["second", "first", "features"]
    assert last(flat, "nc/features/") == pytest.approx(direct(module), rel=1e-5)
    assert last(flat, "nc/second/") == pytest.approx(direct(module, lambda net, x: net.hidden(net.conv(x))), rel=1e-5)
    assert last(flat, "nc/first/") == pytest.approx(direct(module, lambda net, x: net.conv(x).flatten(1)), rel=1e-5)
    assert last(pooled, "pooled/first/") == pytest.approx(
        direct(module, lambda net, x: net.conv(x).mean(dim=(2, 3))), rel=1e-5
    )


def test_a_run_with_the_probes_is_the_run_without(fit):
    plain, _ = fit()
    afterwards = torch.rand(1)
    probed, _ = fit(NeuralCollapseCallback(), LayerwiseNeuralCollapse({"conv": "conv"}))
    assert torch.equal(torch.rand(1), afterwards)
    assert all(torch.equal(value, probed.state_dict()[name]) for name, value in plain.state_dict().items())
    assert not any(part._forward_hooks for part in probed.modules())


def test_modes_are_restored_and_hooks_removed_also_after_an_error(fit):
    class Fails(Net):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("in evaluation")
            return super().forward(x)

    module = Fails().train()
    with pytest.raises(RuntimeError, match="in evaluation"):
        fit(LayerwiseNeuralCollapse({"conv": "conv"}), module=module)
    assert not any(part._forward_hooks for part in module.modules())
    assert module.conv.training
    assert module.hidden[3].training
    assert not module.frozen.training


def test_an_error_within_leaves_no_hooks():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="stop"), captured({"a": net[0]}, net[1]):
        raise RuntimeError("stop")
    assert not any(part._forward_hooks for part in net)


def test_epochs_between_measurements_and_the_last_one(fit):
    probe = NeuralCollapseCallback(every_n_epochs=3)
    fit(probe, epochs=5)
    assert list(probe.history) == [2, 4]
    assert probe.final_curves["nc/nc1"] == ([2.0, 4.0], [probe.history[2]["nc/nc1"], probe.history[4]["nc/nc1"]])


def test_a_training_that_ends_early_is_measured_where_it_ends(fit):
    probe = NeuralCollapseCallback(every_n_epochs=10)
    module, _ = fit(probe, epochs=10, max_steps=9)  # in the second epoch
    assert list(probe.history) == [1]
    assert last(probe) == pytest.approx(direct(module), rel=1e-5)


def test_numbers_are_logged_and_drawn(fit, tmp_path):
    layers = LayerwiseNeuralCollapse({"conv": "conv"})
    probe = NeuralCollapseCallback()
    fit(probe, layers, epochs=3, logger=CSVLogger(tmp_path, name="", version="run"))
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["nc/nc1"]]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert [float(row["nc/nc1"]) for row in rows] == probe.final_curves["nc/nc1"][1]
    for name in ("nc.png", "nc_layers.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0


@pytest.mark.parametrize("validates", [False, True])
def test_a_resumed_run_has_the_curves_of_an_uninterrupted_one(fit, tmp_path, validates):
    data = Images()
    data.augment = False
    data.train_dataloader = lambda: DataLoader(TensorDataset(data.x, data.y), 10)
    if validates:  # then a checkpoint is written before the epoch is measured
        Validated = type("Validated", (Net,), {"validation_step": lambda self, batch, batch_idx: None})
        data.val_dataloader = data.train_dataloader
    else:
        Validated = Net
    start = Net().state_dict()

    def module():
        net = Validated()
        net.hidden[3].p = 0.0
        net.load_state_dict(start)
        return net

    def keeper():
        return pl.callbacks.ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)

    whole, first, second = (NeuralCollapseCallback() for _ in range(3))
    options = {"data": data, "enable_checkpointing": True, "num_sanity_val_steps": 0}
    fit(whole, epochs=4, module=module(), **options)
    fit(first, keeper(), epochs=2, module=module(), **options)
    fit(second, epochs=4, module=module(), ckpt_path=tmp_path / "last.ckpt", **options)
    assert second.history == whole.history
    assert list(second.history) == [0, 1, 2, 3]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]


def test_a_second_fit_begins_anew(fit):
    probe = NeuralCollapseCallback()
    fit(probe, epochs=3)
    fit(probe, epochs=1)
    assert list(probe.history) == [0]


class Reseeds(Dataset):
    """Draws from the global stream for every sample, as augmentation in a dataset does."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        x, y = images()
        return x[index] + torch.rand(1), y[index]


def test_a_trainer_without_a_datamodule_is_measured_on_its_loader_in_order(fit):
    probe = NeuralCollapseCallback()
    module, _ = fit(probe, loader=DataLoader(TensorDataset(*images()), 8, shuffle=True, drop_last=True))
    assert last(probe) == pytest.approx(direct(module), rel=1e-5)


def test_a_dataset_that_draws_numbers_draws_the_same_ones_for_the_training(fit):
    plain, _ = fit(loader=DataLoader(Reseeds(), 8, shuffle=True))
    probed, _ = fit(NeuralCollapseCallback(), loader=DataLoader(Reseeds(), 8, shuffle=True))
    assert torch.equal(plain.last.weight, probed.last.weight)


def test_other_batches_can_be_given(fit):
    part = tuple(tensor[:30] for tensor in images())
    probe = NeuralCollapseCallback(dataloader=[part])
    module, _ = fit(probe)
    assert last(probe) == pytest.approx(direct(module, data=part), rel=1e-5)


def test_several_loaders_are_refused(fit):
    loaders = {"a": DataLoader(TensorDataset(*images()), 8), "b": DataLoader(TensorDataset(*images()), 8)}

    class Twice(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx)

    with pytest.raises(MisconfigurationException, match="one training dataloader is needed, got 2"):
        fit(NeuralCollapseCallback(), module=Twice(), loader=loaders)


def test_processes_share_samples_once_each():
    dataset = TensorDataset(torch.arange(11))
    loaders = [DataLoader(dataset, 3, sampler=DistributedSampler(dataset, 2, rank)) for rank in range(2)]
    shares = [torch.cat([x for (x,) in in_order(loader, rank, 2)]).tolist() for rank, loader in enumerate(loaders)]
    assert shares == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9]]


def test_processes_measure_what_one_does(fit):
    module, trainer = fit(NeuralCollapseCallback(), epochs=1, strategy="ddp_fork", devices=2)
    results = {name.removeprefix("nc/"): float(value) for name, value in trainer.callback_metrics.items()}
    assert results == pytest.approx(direct(module), rel=1e-5)


def test_a_sampler_of_the_users_own_is_left_alone():
    weighted = DataLoader(TensorDataset(torch.arange(4)), 2, sampler=WeightedRandomSampler([1, 0, 0, 1], 4))
    assert in_order(weighted) is weighted


def test_compiled_modules_are_measured_too(fit):
    probe = NeuralCollapseCallback()
    module = Net()
    fit(probe, module=torch.compile(module, backend="eager"))
    assert last(probe) == pytest.approx(direct(module), rel=1e-5)


def test_half_precision_is_measured_as_it_is_computed(fit):
    probe = NeuralCollapseCallback()
    module, _ = fit(probe, precision="bf16-mixed")
    assert last(probe)["trace_ratio"] == pytest.approx(direct(module)["trace_ratio"], rel=0.1)


def test_the_head_is_found_by_name_or_by_itself(fit):
    class TwoHeads(Net):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(8, 5)

        def forward(self, x):
            features = self.hidden(self.conv(x))
            return self.last(features) + 0 * self.other(features)[:, :K]

    named = NeuralCollapseCallback(classifier="last")
    module, _ = fit(named, module=TwoHeads())
    assert last(named) == pytest.approx(direct(module), rel=1e-5)
    module = TwoHeads()
    module.head = module.last
    by_attribute = NeuralCollapseCallback()
    module, _ = fit(by_attribute, module=module)
    assert last(by_attribute) == pytest.approx(direct(module), rel=1e-5)


def test_a_layer_that_forward_does_not_call_is_told(fit):
    with pytest.raises(MisconfigurationException, match=r"forward\(x\) must call the layer unused, which it does not"):
        fit(LayerwiseNeuralCollapse({"unused": "frozen"}))


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (LayerwiseNeuralCollapse({"a": "layer1"}), "layers must name a module of the model, got 'layer1'; it has conv"),
        (NeuralCollapseCallback(classifier="fc"), "classifier must name a module of the model, got 'fc'"),
        (NeuralCollapseCallback(classifier="conv"), r"classifier must name a layer with a weight \(K, d\), got conv"),
    ],
)
def test_layers_that_are_not_there_are_told_before_training(fit, probe, message):
    module = Net()
    before = module.last.weight.clone()
    with pytest.raises(ValueError, match=message):
        fit(probe, module=module)
    assert torch.equal(module.last.weight, before)


def test_a_class_that_is_absent_gives_nan_or_is_skipped(fit):
    x, y = images()
    loader = DataLoader(TensorDataset(x[y > 0], y[y > 0]), 8)
    skipping = NeuralCollapseCallback(nan_policy="skip")
    module, _ = fit(skipping, loader=loader)
    assert last(skipping)["nc1"] == pytest.approx(
        direct(module, data=(x[y > 0], y[y > 0]), nan_policy="skip")["nc1"], rel=1e-5
    )
    strict = NeuralCollapseCallback()
    with pytest.warns(UserWarning, match="Classes 0 have no sample"):
        fit(strict, loader=loader)
    assert math.isnan(last(strict)["nc1"])


def test_a_dry_run_measures_a_batch_and_writes_nothing(fit, tmp_path):
    probe = NeuralCollapseCallback()
    fit(probe, fast_dev_run=True)
    assert len(probe.history) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeuralCollapseCallback(every_n_epochs=0), "every_n_epochs must be at least 1, got 0"),
        (lambda: NeuralCollapseCallback(cache_bytes=-1), "cache_bytes must be at least 0, got -1"),
        (lambda: NeuralCollapseCallback(global_mean="mean"), "global_mean must be one of sample, class, got 'mean'"),
        (lambda: NeuralCollapseCallback(bias_target="K"), "bias_target must be a number or '1/K', got 'K'"),
        (lambda: LayerwiseNeuralCollapse({}), "layers must name at least one module, got none"),
        (lambda: LayerwiseNeuralCollapse({"a": "b"}, reduction="max"), "reduction must be one of flatten, pool"),
        (lambda: LayerwiseNeuralCollapse({"features": "b"}), "layers must have other names than features and logits"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_figure_has_the_panels_of_what_was_measured_and_scales_for_it():
    falling = ([0, 1, 2], [1.0, 0.1, 0.001])
    figure = draw_collapse({"a": {"nc1": falling, "ncc_agreement": ([0, 1], [0.9, 1.0])}, "b": {"nc1": falling}})
    nc1, nc4 = figure.axes
    assert (nc1.get_yscale(), nc4.get_yscale()) == ("log", "linear")
    assert len(nc1.lines) == 2
    assert list(nc4.lines[0].get_ydata()) == pytest.approx([0.1, 0.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert not draw_collapse({"a": {"nc1": falling}}).legends
