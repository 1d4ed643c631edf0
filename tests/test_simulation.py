import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from zoo.simulation import ReplicaHistory, Simulation, no_data

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Decay(Simulation):
    """Three numbers that shrink at rates of their own."""

    def __init__(self, steps_per_epoch=10, growth=1.0, limit=0.0):
        super().__init__(steps_per_epoch, growth)
        self.limit = limit
        self.register_buffer("x", torch.ones(3))
        self.register_buffer("rate", torch.tensor([0.9, 0.95, 0.99]))
        self.steps_seen = []

    def train_dataloader(self):
        return no_data()

    def advance(self, batch, first_step, num_steps):
        self.steps_seen += range(first_step, first_step + num_steps)
        for _ in range(num_steps):
            self.x *= self.rate

    def measures(self, batch):
        return {"x": self.x.clone()}

    @property
    def finished(self):
        return bool((self.x < self.limit).all())


class Descent(Decay):
    """The same with an optimizer, and with something that is measured in the validation."""

    def __init__(self):
        super().__init__()
        self.y = nn.Parameter(torch.ones(3))

    def configure_optimizers(self):
        return torch.optim.SGD([self.y], lr=0.1)

    def advance(self, batch, first_step, num_steps):
        for _ in range(num_steps):
            self.y.grad = self.y.detach().clone()
            self.optimizers().step()

    def val_dataloader(self):
        return DataLoader(torch.zeros(1))

    def validation_step(self, batch, batch_idx):
        self.found |= {"held_out": self.y.detach() + 1}


def fit(module, max_epochs, ckpt_path=None, **options):
    trainer = pl.Trainer(max_epochs=max_epochs, **QUIET, **options)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer, next(one for one in trainer.callbacks if isinstance(one, ReplicaHistory)).final_curves


def test_epochs_grow_and_every_replica_is_measured_from_before_the_first_step_on():
    module = Decay(10, growth=1.5)
    trainer, curves = fit(module, 3)
    assert module.steps_seen == list(range(48))  # 10 + 15 + 22.5, rounded
    assert set(curves) == {"x/0", "x/1", "x/2"}
    steps, values = curves["x/1"]
    assert steps == [0, 10, 25, 48]
    assert values == pytest.approx([0.95**step for step in steps])
    assert trainer.callback_metrics["steps"] == 48
    assert trainer.callback_metrics["x"] == pytest.approx(sum(rate**48 for rate in (0.9, 0.95, 0.99)) / 3)


def test_it_ends_after_the_epoch_in_which_it_is_finished():
    _, curves = fit(Decay(limit=0.5), 100)
    assert curves["x/2"][0][-1] == 70  # 0.99 ** 69 is below a half


def test_a_resumed_simulation_equals_an_uninterrupted_one(tmp_path):
    _, whole = fit(Decay(growth=1.3), 5)
    trainer, _ = fit(Decay(growth=1.3), 3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fit(Decay(growth=1.3), 5, tmp_path / "half.ckpt")
    assert resumed == whole


def test_checkpoints_are_kept_without_an_optimizer(tmp_path):
    trainer, _ = fit(Decay(), 2, default_root_dir=tmp_path)
    assert trainer.global_step == 2
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_steps_of_an_optimizer_are_counted_once_and_validation_is_kept():
    trainer, curves = fit(Descent(), 2)
    assert trainer.global_step == 20
    steps, values = curves["held_out/0"]
    assert steps == [10, 20]
    assert values == pytest.approx([1 + 0.9**10, 1 + 0.9**20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "steps_per_epoch must be at least 1, got 0"), ((1, 0.5), "growth must be at least 1, got 0.5")],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Decay(*arguments)
