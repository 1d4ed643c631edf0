import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.label_noise import (
    Agreement,
    LastVsBest,
    Memorization,
    MemorizationRate,
    NoiseDetection,
    NoiseRate,
    NoiseSeparationLogger,
)

CLEAN = torch.arange(40) % 4
WRONG = torch.arange(40) % 5 == 0
GIVEN = torch.where(WRONG, (CLEAN + 1) % 4, CLEAN)


class Noisy(pl.LightningDataModule):
    """Forty samples whose input tells sample and classes; every fifth label is wrong."""

    train_labels, train_clean_labels = GIVEN, CLEAN

    def train_dataloader(self):
        x = torch.stack([torch.arange(40), GIVEN, CLEAN], dim=1).float()
        return DataLoader(TensorDataset(x, GIVEN, torch.arange(40), CLEAN), batch_size=8)


class Learner(pl.LightningModule):
    """A user's own module: it says the label as given for samples below ``known``, in evaluation only."""

    def __init__(self, known=40, score=None, metric=(0.5,)):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.known = known
        self.score = WRONG.float() if score is None else score
        self.metric = metric

    def forward(self, x):
        says = torch.where((x[:, 0] < self.known) & (not self.training), x[:, 1], x[:, 2])
        return F.one_hot(says.long(), 4).float() + self.weight

    def training_step(self, batch, batch_idx):
        value = self.metric[min(self.current_epoch, len(self.metric) - 1)]
        self.log("held_out", value, on_step=False, on_epoch=True)
        return self(batch[0]).sum()

    def noise_score(self):
        return self.score

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def fit(tmp_path):
    def run(callback, model, epochs=1, datamodule=None, **options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        quiet |= {"logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
        trainer = pl.Trainer(max_epochs=epochs, callbacks=[callback], **(quiet | options))
        trainer.fit(model, datamodule=datamodule or Noisy())
        return trainer

    return run


def test_rates_add_up_over_batches_and_processes():
    whole, first, second = (MemorizationRate() for _ in range(3))
    says = torch.where(torch.arange(40) < 20, GIVEN, CLEAN)
    whole.update(says, GIVEN, CLEAN)
    first.update(F.one_hot(says[:7]), GIVEN[:7], CLEAN[:7])  # logits will do
    second.update(says[7:], GIVEN[7:], CLEAN[7:])
    first.merge_state(second)
    assert first.compute() == whole.compute() == 0.5
    rate = NoiseRate()
    rate.update(GIVEN[:30], CLEAN[:30])
    rate.update(GIVEN[30:], CLEAN[30:])
    assert rate.compute().item() == pytest.approx(0.2)
    assert Agreement()(says, GIVEN).item() == pytest.approx(0.9)


def test_without_wrong_labels_nothing_can_be_memorised():
    assert MemorizationRate()(CLEAN, CLEAN, CLEAN).isnan()


def test_detection_counts_by_hand():
    detection = NoiseDetection(threshold=0.3)
    detection.update(torch.tensor([0.9, 0.4, 0.2, 0.1, 0.35]), torch.tensor([1, 0, 1, 0, 1]))
    found = {name: value.item() for name, value in detection.compute().items()}
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["auroc"] == pytest.approx(4 / 6)  # of six pairs of a wrong and a right label


def test_what_a_network_says_of_its_training_set(fit):
    callback, model = Memorization(), Learner(known=20)
    fit(callback, model)
    assert callback.final_metrics == pytest.approx(
        {
            "memorization/given": 36 / 40,
            "memorization/clean": 36 / 40,
            "memorization/wrong": 4 / 8,
            "memorization/noise_rate": 0.2,
        }
    )
    assert model.training  # as it was, though it was asked in evaluation mode


def test_only_the_batches_that_are_trained_on_are_looked_at(fit):
    callback = Memorization()
    fit(callback, Learner(), limit_train_batches=2)
    assert callback.final_metrics["memorization/noise_rate"] == pytest.approx(4 / 16)


def test_memorization_needs_clean_labels(fit):
    class Pairs(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)), batch_size=8)

    with pytest.raises(ValueError, match=r"a batch must be \(x, y, index, clean_y, ...\), got 2 parts"):
        fit(Memorization(), Learner(), datamodule=Pairs())


def test_separation_is_logged_and_kept(fit):
    score = torch.where(WRONG, 0.95, 0.05)
    score[0], score[1] = 0.05, 0.95  # one wrong label is missed, one right label accused
    callback = NoiseSeparationLogger(bins=10)
    trainer = fit(callback, Learner(score=score))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("noise/")}
    assert logged == pytest.approx(callback.final_metrics)
    assert logged["noise/precision"] == logged["noise/recall"] == pytest.approx(7 / 8)
    assert logged["noise/score_wrong"] == pytest.approx((7 * 0.95 + 0.05) / 8)
    middles, shares = callback.final_curves["noise/wrong"]
    assert middles[0] == pytest.approx(0.05)
    assert shares == pytest.approx([1 / 8] + [0] * 8 + [7 / 8])
    assert callback.final_curves["noise/right"][1][0] == pytest.approx(31 / 32)


def test_separation_is_logged_every_few_epochs_and_in_the_last(fit, monkeypatch):
    epochs = []
    model = Learner()
    monkeypatch.setattr(model, "log_dict", lambda metrics: epochs.append(model.current_epoch))
    fit(NoiseSeparationLogger(every_n_epochs=3), model, epochs=7)
    assert epochs == [2, 5, 6]


def test_histograms_go_to_loggers_that_draw(fit):
    drawn = {}

    class Drawing(pl.loggers.logger.DummyLogger):
        @property
        def experiment(self):
            return SimpleNamespace(add_histogram=lambda name, values, step: drawn.update({name: len(values)}))

        def log_metrics(self, *args, **kwargs):
            pass

    class WithNoise(Learner):
        def noise(self):
            return -torch.rand(40, 4)

    fit(NoiseSeparationLogger(), WithNoise(), logger=Drawing())
    assert drawn == {
        "noise/score_wrong": 8,
        "noise/score_right": 32,
        "noise/removed_wrong": 8,
        "noise/removed_right": 32,
    }


def test_separation_says_what_it_needs(fit):
    class Plain(pl.LightningModule):
        pass

    with pytest.raises(ValueError, match=r"needs a module with noise_score\(\), got Plain"):
        NoiseSeparationLogger().setup(SimpleNamespace(datamodule=Noisy()), Plain(), "fit")
    with pytest.raises(ValueError, match="a datamodule with train_labels and train_clean_labels is needed"):
        NoiseSeparationLogger().setup(SimpleNamespace(datamodule=None), Learner(), "fit")
    with pytest.raises(ValueError, match="one value for each of 40 training labels"):
        fit(NoiseSeparationLogger(), Learner(score=torch.zeros(3)))


@pytest.mark.parametrize(("mode", "best", "epoch", "lost"), [("max", 0.9, 1, 0.3), ("min", 0.2, 2, 0.4)])
def test_best_and_last_of_a_metric(fit, mode, best, epoch, lost):
    callback = LastVsBest("held_out", mode)
    assert callback.final_metrics == {}
    fit(callback, Learner(metric=(0.5, 0.9, 0.2, 0.6)), epochs=4)
    assert callback.final_metrics == pytest.approx(
        {"held_out (best)": best, "held_out (last)": 0.6, "held_out (best epoch)": epoch, "held_out (lost)": lost}
    )


def test_a_resumed_run_keeps_the_best_of_before():
    before, after = LastVsBest("acc"), LastVsBest("acc")
    before.values = {0: 0.9, 1: 0.4}
    after.load_state_dict(before.state_dict())
    after.values[2] = 0.5
    assert after.final_metrics["acc (best)"] == 0.9
    assert before.values == {0: 0.9, 1: 0.4}
    assert LastVsBest("acc").state_key != LastVsBest("loss").state_key


def test_a_metric_that_is_not_logged_is_told(fit):
    with pytest.raises(ValueError, match="monitor must be a metric that is logged, one of held_out, got 'val/acc'"):
        fit(LastVsBest("val/acc"), Learner())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseDetection(1.5), r"threshold must be in \[0, 1\], got 1.5"),
        (lambda: NoiseDetection(math.nan), r"threshold must be in \[0, 1\], got nan"),
        (lambda: NoiseSeparationLogger(every_n_epochs=0), "every_n_epochs must be at least 1, got 0"),
        (lambda: NoiseSeparationLogger(bins=0), "bins must be at least 1, got 0"),
        (lambda: LastVsBest(mode="best"), "mode must be one of max, min, got 'best'"),
    ],
)
def test_wrong_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
