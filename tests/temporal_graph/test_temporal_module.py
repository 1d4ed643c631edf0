import json

import pytest
import pytorch_lightning as pl
import torch
from torch_geometric.nn import global_mean_pool

from datamodules import DynCSLDataModule, EnglandCovidDataModule
from zoo.recipes import main
from zoo.temporal_graph import (
    MeanEncoder,
    NaiveForecast,
    OffsetMAPE,
    RawError,
    TemporalForecaster,
    TemporalGraphClassifier,
)
from zoo.temporal_graph.module import masked_mse

from .conftest import batched, random_window


def trainer(tmp_path, epochs=2, **options):
    return pl.Trainer(
        default_root_dir=tmp_path, max_epochs=epochs, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


@pytest.fixture
def epidemic(monkeypatch):
    """England's stand-in with few regions and days, and no word about it."""
    monkeypatch.setattr("datamodules.temporal_england.NUM_REGIONS", 20)
    monkeypatch.setattr("datamodules.temporal_england.NUM_DAYS", 30)
    monkeypatch.setattr("datamodules.temporal_forecast.rank_zero_warn", lambda _: None)
    return lambda **args: EnglandCovidDataModule(if_unavailable="stand_in", **args)


def test_the_metric_is_the_mean_of_relative_errors_with_an_offset():
    metric = OffsetMAPE()
    metric.update(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([True, True]))
    metric.update(torch.tensor([[9.0], [0.5]]), torch.tensor([[0.0], [0.0]]), torch.tensor([False, True]))
    assert float(metric.compute()) == pytest.approx(100 * (1 / 1 + 1 / 2 + 0.5 / 1) / 3)


def test_raw_errors_are_in_the_unit_of_each_target():
    forecast, y, mask = torch.tensor([[1.0, 1.0], [2.0, 0.0], [5.0, 5.0]]), torch.zeros(3, 2), torch.tensor([1, 1, 0])
    mae, rmse = RawError([10.0, 2.0]), RawError([10.0, 2.0], power=2)
    for metric in (mae, rmse):
        metric.update(forecast, y, mask.bool())
    assert float(mae.compute()) == pytest.approx((15 + 1) / 2)
    assert float(rmse.compute()) == pytest.approx((250**0.5 + 2**0.5) / 2)


def test_the_loss_is_that_of_the_nodes_of_the_mask():
    forecast, y, mask = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    torch.testing.assert_close(masked_mse(forecast, y, mask), (forecast[mask] - y[mask]).square().mean())
    assert masked_mse(forecast, y, torch.zeros(6, dtype=torch.bool)) == 0


def test_a_class_is_told_from_the_mean_over_a_windows_nodes():
    windows = [random_window(num_nodes=size, num_features=1, seed=size) for size in (12, 17)]
    model = TemporalGraphClassifier(num_classes=3)
    batch = batched(*windows)
    expected = model.head(global_mean_pool(model.embed(batch), batch.batch))
    torch.testing.assert_close(model(batch), expected)
    torch.testing.assert_close(model(batch)[1:], model(windows[1]))


def test_training_learns_what_histories_tell(tmp_path):
    pl.seed_everything(0)
    data = DynCSLDataModule(num_nodes=9, skips=(2, 3), num_samples=60, batch_size=10, label="order", seed=0)
    args = {"edge_to_scalar": "mean", "propagation": "sum", "gnn_activation": "identity"}
    model = TemporalGraphClassifier(
        encoder_args=args, num_classes=2, optimizer=lambda params: torch.optim.Adam(params, lr=0.02)
    )
    run = trainer(tmp_path, epochs=25, enable_checkpointing=False, limit_val_batches=0)
    run.fit(model, datamodule=data)
    assert run.test(model, datamodule=data, verbose=False)[0]["test/acc"] == 1.0


@pytest.fixture
def one_thread():
    """Several threads add up a scattered gradient in an order that is not fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("encoder", ["gru_gcn", "gcn_gru"])
def test_on_one_thread_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(encoder, workplace, capsys, one_thread):
    def words(epochs, *more):
        return [
            "--model", "time_then_graph", "--model.encoder", encoder, "--model.encoder_args", "{propagation: sum}",
            "--data.num_samples", "40", "--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu",
            "--trainer.callbacks", "[]", *more,
        ]  # fmt: skip

    def outcome(version):
        folder = workplace / f"logs/time_then_graph/version_{version}"
        state = torch.load(folder / "checkpoints/last.ckpt")["state_dict"]
        return state, json.loads((folder / "results.json").read_text())["metrics"]["test/loss"]

    assert main(words(4)) == 0
    assert main(words(2)) == 0
    last = str(workplace / "logs/time_then_graph/version_1/checkpoints/last.ckpt")
    assert main(words(4, "--ckpt_path", last)) == 0
    (whole, loss), (resumed, resumed_loss) = outcome(0), outcome(1)
    assert loss == resumed_loss
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_forecaster_is_loaded_from_its_checkpoint(tmp_path, epidemic):
    data = epidemic(window=4, batch_size=8)
    model = TemporalForecaster(encoder="dcrnn", target_range=data.target_range, hidden_channels=4)
    run = trainer(tmp_path, epochs=1)
    run.fit(model, datamodule=data)
    path = str(tmp_path / "model.ckpt")
    run.save_checkpoint(path)
    batch = next(iter(data.test_dataloader()))
    torch.testing.assert_close(TemporalForecaster.load_from_checkpoint(path)(batch), model(batch))


@pytest.mark.parametrize("split", ["chronological", "node"])
@pytest.mark.parametrize("method", ["last", "window_mean"])
def test_naive_rows_are_computed_by_hand(method, split, tmp_path, epidemic):
    data = epidemic(window=4, split=split)
    model = NaiveForecast(method, target_range=data.target_range)
    run = trainer(tmp_path, epochs=1, enable_checkpointing=False)
    run.fit(model, datamodule=data)
    metrics = run.test(model, datamodule=data, verbose=False)[0]
    cases, mask = data.sequence.features[:, :, 0], data.masks["test"]
    scaled = (cases - data.scale[0]) / data.scale[1]
    errors, raw = [], []
    for w in data.positions["test"].tolist():
        guess = scaled[w + 3] if method == "last" else scaled[w : w + 4].mean(0)
        difference = (guess - scaled[w + 4])[mask].abs()
        errors.append(difference / (scaled[w + 4][mask].abs() + 1))
        raw.append(difference * data.target_range[0])
    assert metrics["test/mape"] == pytest.approx(100 * float(torch.cat(errors).mean()), rel=1e-4)
    assert metrics["test/mae"] == pytest.approx(float(torch.cat(raw).mean()), rel=1e-4)


def test_the_training_of_a_split_by_nodes_does_not_depend_on_the_targets_of_others(tmp_path, epidemic):
    data = epidemic(window=4, split="node", batch_size=8)
    batch = next(iter(data.train_dataloader()))
    model = TemporalForecaster(hidden_channels=4)
    model.log = model.log_dict = lambda *_, **__: None
    spoilt = batch._replace(y=torch.where(batch.mask[:, None], batch.y, 99.0))
    assert torch.equal(model.training_step(batch, 0), model.training_step(spoilt, 0))


@pytest.mark.parametrize("encoder", ["gru_gcn", "gcn_gru", "dcrnn", "tgn"])
def test_training_runs_in_mixed_precision(encoder, tmp_path, epidemic):
    data = epidemic(window=4, batch_size=8)
    model = TemporalForecaster(encoder=encoder, hidden_channels=4)
    run = trainer(tmp_path, epochs=1, precision="bf16-mixed", enable_checkpointing=False)
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val/loss"].isfinite()


def test_training_runs_in_double_precision(tmp_path, epidemic):
    data = epidemic(window=4, batch_size=8)
    model = TemporalForecaster(encoder="gcrn_m2", hidden_channels=4)
    run = trainer(tmp_path, epochs=1, precision="64-true", enable_checkpointing=False)
    run.fit(model, datamodule=data)
    assert next(model.parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NaiveForecast("median"), "method must be one of last, window_mean, got 'median'"),
        (lambda: OffsetMAPE(0.0), "offset must be > 0, got 0.0"),
        (lambda: RawError([1.0], power=3), "power must be 1 or 2, got 3"),
        (lambda: RawError([0.0]), r"scale must hold numbers > 0, got \[0.0\]"),
        (lambda: TemporalForecaster(encoder=MeanEncoder(1), encoder_args={"a": 1}), "encoder_args must be left out"),
        (lambda: TemporalForecaster(encoder="arima"), "encoder must be one of gru_gcn"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
