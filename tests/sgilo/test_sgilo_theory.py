import pytest
import pytorch_lightning as pl
import torch

from zoo.sgilo import GradientFieldExperiment, LangevinExperiment
from zoo.simulation import ReplicaHistory

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SMALL = {"widths": (4, 40, 160), "num_measurements": None, "num_nets": 3, "steps_per_epoch": 40}


def experiment(seed=0, **arguments):
    torch.manual_seed(seed)
    return LangevinExperiment(**{**SMALL, **arguments})


def simulate(module, folder, max_epochs=1, ckpt_path=None):
    trainer = pl.Trainer(max_epochs=max_epochs, default_root_dir=folder, **QUIET)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def relative_error(module):
    truth = module.problems.truth.unsqueeze(2)
    return (module.z - truth).norm(dim=-1) / truth.norm(dim=-1)


def test_descent_finds_the_code_that_a_chain_with_noise_stays_around(tmp_path):
    module = experiment(inverse_temperature=[1e4, None], num_measurements=[40], steps_per_epoch=2000)
    simulate(module, tmp_path)
    with_noise, without = module.found["error"].view(3, 2).unbind(1)
    assert (without < 1e-6).all()
    assert ((with_noise > 1e-4) & (with_noise < 0.05)).all()
    assert module.found["found"].tolist() == [1.0] * 6


def test_coupled_chains_forget_where_they_began_and_others_do_not(tmp_path):
    starts = ["far", "near_zero", "beyond", "truth"]
    coupled, free = (experiment(starts=starts, coupled=coupled, steps_per_epoch=600) for coupled in (True, False))
    simulate(coupled, tmp_path)
    simulate(free, tmp_path)
    assert (coupled.found["distance"] < 1e-6).all()
    assert (free.found["distance"] > 1e-3).all()
    assert (coupled.found["error"] > 1e-4).all()  # it is not that they have stopped


def test_coupled_chains_near_the_truth_contract_by_the_slowest_eigenvalue(tmp_path):
    module = experiment(inverse_temperature=1e8, starts=["truth"], num_chains=2, coupled=True, num_nets=1)
    module.on_fit_start()
    values, vectors = torch.linalg.eigh(module.hessian[0, 0, 0])
    module.z[0, 0, 0, 1] += 1e-6 * vectors[:, 0]
    before = module.measures(None)["distance"].item()
    module.advance(None, 0, 20)
    after = module.measures(None)
    slowest = module.step_size * values[0].item()
    assert (after["distance"].item() / before) ** (1 / 20) == pytest.approx(1 - slowest, rel=1e-3)
    assert after["slowest"].item() == pytest.approx(slowest)


def test_cold_chains_have_the_covariance_of_the_quadratic_well(tmp_path):
    module = experiment(inverse_temperature=1e6, starts=["truth"], num_chains=60, burn_in=300, steps_per_epoch=1500)
    simulate(module, tmp_path)
    torch.testing.assert_close(module.found["second_moment"], torch.ones(3, dtype=torch.float64), rtol=0, atol=0.06)
    assert (module.found["covariance_error"] < 0.15).all()


def test_gathered_moments_are_those_of_the_states(tmp_path):
    module = experiment(starts=["random"], num_chains=5, burn_in=3, thin=2, steps_per_epoch=1)
    module.on_fit_start()
    states = []
    for step in range(9):
        module.advance(None, step, 1)
        states.append(module.z.clone())
    kept = torch.stack(states[3::2]) - module.problems.truth.unsqueeze(2)
    torch.testing.assert_close(module.second_moment, torch.einsum("tabcdi,tabcdj->abcij", kept, kept))
    assert module.gathered == 3 * 5


def test_the_sign_check_leaves_the_opposite_ray_at_once(tmp_path):
    checked, plain = (experiment(starts=["opposite"], sign_check=check, steps_per_epoch=3) for check in (True, False))
    simulate(checked, tmp_path)
    simulate(plain, tmp_path)
    assert (checked.found["error"] < 0.5).all()
    assert (plain.found["error"] > 1).all()


def test_starts_lie_where_they_say(tmp_path):
    starts = ["opposite", "beyond", "truth", "far", "near_zero"]
    module = experiment(
        starts=starts, num_chains=50, num_nets=20, num_measurements=[5, 9], inverse_temperature=[1.0, None]
    )
    error = module.z - module.problems.truth.unsqueeze(2)
    relative = (error.norm(dim=-1) / module.problems.truth.unsqueeze(2).norm(dim=-1)).view(20, 2, 2, 5, 50)
    for i, expected in enumerate((2.0, 4.0, 0.0)):
        torch.testing.assert_close(relative[:, :, :, i], torch.full_like(relative[:, :, :, i], expected))
    spread = module.z.view(20, 2, 2, 5, 50, 4).std((0, 4, 5))
    assert torch.allclose(spread[..., 3], torch.tensor(3.0, dtype=torch.float64), rtol=0.05)
    assert torch.allclose(spread[..., 4], torch.tensor(0.05, dtype=torch.float64), rtol=0.05)
    assert torch.equal(module.z[:, 0, 0], module.z[:, 1, 1])


def test_replicas_are_ordered_by_network_measurements_temperature_and_chain(tmp_path):
    module = experiment(num_measurements=[2, 8], inverse_temperature=[None, 10.0], num_chains=3, steps_per_epoch=2)
    simulate(module, tmp_path)
    error = (module.z - module.problems.truth.unsqueeze(2)).norm(dim=-1) / module.problems.truth.unsqueeze(2).norm(
        dim=-1
    )
    assert torch.equal(module.found["error"], error.flatten())
    assert error.shape == (3, 2, 2, 3)


def test_a_resumed_experiment_ends_as_one_that_went_through(tmp_path):
    settings = {"num_measurements": [10], "burn_in": 10, "thin": 3, "starts": ["random", "far"]}
    whole = experiment(**settings)
    history = simulate(whole, tmp_path, max_epochs=2)
    path = tmp_path / "half.ckpt"
    simulate(experiment(**settings), tmp_path, max_epochs=1).save_checkpoint(path)
    second = experiment(seed=7, **settings)  # other problems, unless the checkpoint's take their place
    resumed = simulate(second, tmp_path, max_epochs=2, ckpt_path=path)
    curves = [
        next(callback for callback in trainer.callbacks if isinstance(callback, ReplicaHistory)).final_curves
        for trainer in (history, resumed)
    ]
    assert torch.equal(whole.z, second.z)
    assert curves[0] == curves[1]
    assert "second_moment/0" in curves[0]


def test_a_chain_that_diverges_is_named_with_its_step(tmp_path):
    module = experiment(num_nets=2, num_chains=2)
    module.on_fit_start()
    module.advance(None, 0, 3)
    module.z[1, 0, 0, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"replica 2 has diverged by step 4 with step_size 0\.2"):
        module.advance(None, 3, 5)


def test_a_step_size_beyond_the_curvature_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"step_size must be below .*, 2 over the largest curvature, got 3\.0"):
        simulate(experiment(step_size=3.0), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nets": 0}, "num_nets must be at least 1, got 0"),
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"thin": 0}, "thin must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be > 0, got 0.0"),
        ({"starts": ["here"]}, r"starts must be some of random, .*got \['here'\]"),
        ({"starts": []}, "starts must be some of"),
        ({"inverse_temperature": [1.0, -1.0]}, "inverse_temperature must be > 0"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"burn_in": 5, "inverse_temperature": None}, "burn_in must be at least 0, and not be given without noise"),
        ({"num_measurements": 0}, "num_measurements must be at least 1"),
    ],
)
def test_experiments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(**arguments)


def test_the_field_comes_nearer_to_its_limit_as_layers_widen(tmp_path):
    torch.manual_seed(0)
    module = GradientFieldExperiment(expansions=(2, 60), steps_per_epoch=20)
    simulate(module, tmp_path)
    narrow, wide = module.found["field_error"]
    assert wide < 0.4 < narrow


def test_a_resumed_field_experiment_draws_what_an_uninterrupted_one_does(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        return GradientFieldExperiment(expansions=(2, 3), steps_per_epoch=4)

    whole, second = make(0), make(1)
    simulate(whole, tmp_path, max_epochs=2)
    simulate(make(0), tmp_path).save_checkpoint(tmp_path / "half.ckpt")
    simulate(second, tmp_path, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(whole.total, second.total)


@pytest.mark.parametrize("arguments", [{"expansions": []}, {"code_size": 0}, {"growths": [0]}])
def test_fields_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1, got"):
        GradientFieldExperiment(**arguments)
