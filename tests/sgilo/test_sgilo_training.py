import copy
import json

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks import ReconstructionMonitor
from datamodules import InverseProblemDataModule, VisionDataModule
from zoo.recipes import main
from zoo.resume import RandomState
from zoo.sgilo import (
    CSGM,
    ILO,
    SGILO,
    ConvDecoder,
    GeneratorTraining,
    InverseEvaluation,
    LatentScoreModule,
    PosteriorLangevin,
    ProximityPrior,
    ScoreTraining,
    VAEModule,
)
from zoo.sgilo.cache import kept_weights

SHAPE = (1, 8, 8)
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
BARE = QUIET | {"enable_checkpointing": False}
SMALL = {"latent_dim": 3, "hidden_dim": 16, "channels": (2, 4, 4), "max_epochs": 1, "inverter_epochs": 1}


def training(**changes):
    settings = {"hidden_dim": 16, "num_blocks": 1, "num_steps": 20, "batch_size": 64}
    return ScoreTraining(GeneratorTraining(**SMALL), **(settings | changes))


def digits(**changes):
    return VisionDataModule("digits", normalize=False, val_fraction=0.1, seed=0, **changes)


def problems(**changes):
    settings = {
        "num_measurements": 16,
        "num_images": 6,
        "num_draws": 2,
        "name": "digits",
        "val_fraction": 0.0,
        "seed": 0,
    }
    return InverseProblemDataModule("random_inpainting", **(settings | changes))


def solvers():
    first = CSGM(num_steps=3)
    return {
        "csgm": first,
        "ilo": ILO(first, num_steps=3),
        "sgilo": SGILO(first, "score", num_steps=3),
        "gaussian": SGILO(first, "gaussian", num_steps=3),
        "posterior": PosteriorLangevin(first, num_chains=2, burn_in=2, num_steps=4, thin=2),
    }


def test_an_autoencoder_learns_digits():
    torch.manual_seed(0)
    module = VAEModule(4, SHAPE, 32, (4, 8, 8), lr=1e-2)
    trainer = Trainer(max_epochs=8, **BARE)
    data = digits(batch_size=32)
    before = trainer.test(module, data, verbose=False)[0]["test/mse"]
    trainer.fit(module, data)
    after = trainer.test(module, data, verbose=False)[0]["test/mse"]
    assert after < 0.6 * before


def test_generator_and_score_are_trained_once_and_kept(monkeypatch, workplace):
    data, plan = digits(), training()
    fitted = []
    for kind in (GeneratorTraining, ScoreTraining):
        original = kind.fit
        monkeypatch.setattr(kind, "fit", lambda self, *a, o=original, **k: fitted.append(self) or o(self, *a, **k))
    options = {"enable_progress_bar": False}
    state = torch.get_rng_state()
    first = plan.obtain(data, SHAPE, **options)
    assert torch.equal(state, torch.get_rng_state())
    second = plan.obtain(data, SHAPE, **options)
    assert [type(one) for one in fitted] == [GeneratorTraining, ScoreTraining]
    assert all(torch.equal(first[name], second[name]) for name in first)
    plan.models(SHAPE).load_state_dict(second)
    (folder,) = (workplace / "cache/sgilo_scores").glob("*/")
    assert json.loads((folder / "config.json").read_text())["num_steps"] == 20
    training(num_steps=21).obtain(data, SHAPE, **options)  # another score of the same generator
    assert [type(one) for one in fitted] == [GeneratorTraining, ScoreTraining, ScoreTraining]
    assert set(plan.obtain(data, SHAPE, with_priors=False)) == {name for name in first if name.startswith("inverter.")}


def test_a_broken_file_of_the_cache_is_trained_anew(tmp_path):
    calls = []

    def train(place):
        calls.append(place)
        return {"weight": torch.ones(2)}

    kept_weights(tmp_path / "kind/key", {}, train)
    (tmp_path / "kind/key/weights.pt").write_bytes(b"half")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert torch.equal(kept_weights(tmp_path / "kind/key", {}, train)["weight"], torch.ones(2))
    assert len(calls) == 2


def test_the_priors_are_those_of_the_latents_of_the_training_images():
    data, plan = digits(), training()
    models = plan.models(SHAPE)
    models.load_state_dict(plan.fit(data, SHAPE, enable_progress_bar=False))
    x = torch.cat([batch.x for batch in data.train_dataloader()])
    latents = models.inverter.invert(x)
    torch.testing.assert_close(models.denoiser.mean, latents.mean(0), atol=0.02, rtol=0.02)
    torch.testing.assert_close(models.gaussian.mean, latents.mean(0), atol=0.02, rtol=0.02)
    covariance = torch.cov(latents.flatten(1).T)
    whitened = covariance @ models.gaussian.precision
    assert (whitened - torch.eye(len(whitened))).abs().max() < 0.2


def test_the_average_follows_the_weights():
    torch.manual_seed(0)
    module = LatentScoreModule(SHAPE, GeneratorTraining(**SMALL), 16, 1, ema_decay=0.9)
    before = copy.deepcopy(module.average.network.last.bias)
    with torch.no_grad():
        module.denoiser.network.last.bias.add_(1.0)
    module.on_train_batch_end(None, None, 0)
    torch.testing.assert_close(module.average.network.last.bias, before + 0.1)


def fit_score(tmp_path, max_epochs, ckpt_path=None):
    torch.manual_seed(3)
    module = LatentScoreModule(SHAPE, GeneratorTraining(**SMALL), 16, 1)
    trainer = Trainer(
        max_epochs=max_epochs, default_root_dir=tmp_path, callbacks=[RandomState()], limit_train_batches=3, **QUIET
    )
    # the schedule of two epochs in every fit, so that the first of them is the same
    module.configure_optimizers = lambda: torch.optim.Adam(module.denoiser.parameters(), lr=1e-3)
    trainer.fit(module, digits(), ckpt_path=ckpt_path)
    trainer.save_checkpoint(tmp_path / f"{max_epochs}.ckpt")
    return module.state_dict()


def test_a_resumed_score_equals_an_uninterrupted_one(tmp_path):
    whole = fit_score(tmp_path, 2)
    fit_score(tmp_path, 1)
    resumed = fit_score(tmp_path, 2, ckpt_path=tmp_path / "1.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_evaluation_reports_every_solver_and_its_checkpoint_finds_the_same(tmp_path):
    data = problems(num_measurements=[16, 32])
    monitor = ReconstructionMonitor(reference="sgilo", num_shown=1)
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=0, inference_mode=False, callbacks=[monitor], **BARE
    )
    module = InverseEvaluation(solvers(), SHAPE, training=training())
    trainer.fit(module, data)
    first = trainer.test(module, data, verbose=False)[0]
    for name in solvers():
        for m in (16, 32):
            assert first[f"test/mse/{name}/{m}"] > 0
            assert len(monitor.final_curves[f"mse/{name}/{m}"][1]) == 12
        assert first[f"test/seconds/{name}"] > 0
    assert 0 <= first["test/coverage/posterior/16"] <= 1
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = InverseEvaluation(solvers(), SHAPE, training=training())
    again = Trainer(inference_mode=False, callbacks=[ReconstructionMonitor("sgilo")], **BARE)
    second = again.test(other, data, ckpt_path=tmp_path / "one.ckpt", verbose=False)[0]
    assert {n: v for n, v in first.items() if "seconds" not in n} == {
        n: v for n, v in second.items() if "seconds" not in n
    }


def test_a_solver_does_not_change_what_another_finds():
    module = InverseEvaluation(solvers(), SHAPE, training=training())
    module.models.load_state_dict(module.plan.fit(digits(), SHAPE, enable_progress_bar=False))
    problem = next(iter(problems().test_dataloader()))
    together = module.solve(problem.operator, problem.y)
    for name, solver in solvers().items():
        module.solvers = {name: solver}
        assert torch.equal(module.solve(problem.operator, problem.y)[name].x, together[name].x)


def test_mixed_precision_does_not_change_what_is_found():
    module = InverseEvaluation({"csgm": CSGM(num_steps=3)}, SHAPE, generator=ConvDecoder(2, SHAPE))
    problem = problems().problem(16, 0)
    plain = module.solve(problem.operator, problem.y)["csgm"].x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module.solve(problem.operator, problem.y)["csgm"].x
    assert torch.equal(plain, mixed)


def test_only_priors_that_are_asked_for_are_trained():
    assert InverseEvaluation({"a": SGILO(CSGM(), "score")}, SHAPE, training=training()).asks_for_priors
    assert InverseEvaluation({"a": ILO(SGILO(CSGM(), "score"))}, SHAPE, training=training()).asks_for_priors
    near = {"a": ILO(CSGM()), "b": SGILO(CSGM(), ProximityPrior(1.0))}
    assert not InverseEvaluation(near, SHAPE, training=training()).asks_for_priors


def test_inference_mode_is_refused():
    module = InverseEvaluation({"csgm": CSGM(num_steps=1)}, SHAPE, generator=ConvDecoder(2, SHAPE))
    with pytest.raises(MisconfigurationException, match="inference_mode must be false"):
        Trainer(**BARE).test(module, problems(), verbose=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: InverseEvaluation({}, SHAPE, training=training()), "at least one solver, got none"),
        (lambda: InverseEvaluation({"a b": CSGM()}, SHAPE, training=training()), "got 'a b'"),
        (lambda: InverseEvaluation({"a": CSGM()}, SHAPE), "must be given, got none"),
        (
            lambda: InverseEvaluation({"a": CSGM()}, SHAPE, ConvDecoder(2, SHAPE), training=training()),
            "must be given, got both",
        ),
        (
            lambda: InverseEvaluation({"a": CSGM()}, SHAPE, priors={"p": ProximityPrior(1.0)}, training=training()),
            "priors must be left out",
        ),
        (lambda: GeneratorTraining(max_epochs=0), "max_epochs must be at least 1, got 0"),
        (lambda: training(num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda: LatentScoreModule(SHAPE, ema_decay=1.0), r"ema_decay must be in \[0, 1\), got 1.0"),
        (lambda: VAEModule(lr=0.0), "lr must be > 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_run_from_the_command_line_writes_its_curves(workplace):
    words = [
        "--model",
        "csgm",
        "--trainer.accelerator",
        "cpu",
        "--data.name",
        "digits",
        "--data.num_measurements",
        "16",
    ]
    words += ["--data.num_images", "4", "--data.num_draws", "1", "--model.training.generator.max_epochs", "1"]
    words += ["--model.training.generator.precision", "32-true"]
    assert main(words) == 0
    (result,) = (workplace / "logs/csgm").glob("*/results.json")
    content = json.loads(result.read_text())
    assert content["metrics"]["test/mse/csgm/16"] > 0
