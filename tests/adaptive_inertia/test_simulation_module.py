from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from zoo.adaptive_inertia import Adai, EscapeTimeExperiment, SaddleExperiment

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
ADAI = partial(Adai, lr=0.02, batched=True)


def experiment():
    return EscapeTimeExperiment((1.0, 2.0), batch_size=0.05, num_particles=40, optimizer=ADAI, steps_per_epoch=20)


def fit(module, folder, max_epochs, **options):
    trainer = pl.Trainer(max_epochs=max_epochs, default_root_dir=folder, **QUIET)
    trainer.fit(module, **options)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_an_experiment_logs_what_the_simulation_finds(tmp_path):
    torch.manual_seed(1)
    module = experiment()
    logged = fit(module, tmp_path, 3)
    simulation = module.simulation
    assert simulation.steps == 60
    assert simulation.exits.min() > 0
    assert [logged[f"escape/exits_k{k}"] for k in (1, 2)] == simulation.exits.tolist()
    expected = (60 * 40 / simulation.exits).log().tolist()
    assert [logged[f"escape/log_time_k{k}"] for k in (1, 2)] == pytest.approx(expected)


def test_a_resumed_experiment_goes_on_where_it_was(tmp_path):
    torch.manual_seed(2)
    whole = experiment()
    fit(whole, tmp_path / "whole", 4)
    torch.manual_seed(2)
    first = experiment()
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path / "first", **QUIET)
    trainer.fit(first)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.get_rng_state()
    second = experiment()
    torch.set_rng_state(state)  # the command line keeps it in the checkpoint
    fit(second, tmp_path / "second", 4, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(second.simulation.exits, whole.simulation.exits)
    assert torch.equal(second.simulation.position, whole.simulation.position)


def test_a_saddle_experiment_logs_every_axis(tmp_path):
    module = SaddleExperiment([1.0, -0.01], num_particles=30, optimizer=ADAI, steps_per_epoch=20)
    logged = fit(module, tmp_path, 1)
    expected = module.simulation.mean_squared_displacement().tolist()
    assert [logged["saddle/displacement_1"], logged["saddle/displacement_-0.01"]] == pytest.approx(expected)
    assert module.simulation.steps == 20


@pytest.mark.parametrize("steps", [0, 15, -10])
def test_an_epoch_has_a_multiple_of_ten_steps(steps):
    with pytest.raises(ValueError, match=f"steps_per_epoch must be a multiple of 10, at least 10, got {steps}"):
        EscapeTimeExperiment(steps_per_epoch=steps)
