import math
import warnings

import pytest
import pytorch_lightning as pl
import torch

from callbacks.neural_collapse import neural_collapse
from zoo.unconstrained_features import (
    UFMExperiment,
    UnconstrainedFeatures,
    etf_distance,
    frame_distance,
    hessian_eigenvalues,
    measures,
    of_distance,
    self_duality,
    variability,
)
from zoo.unconstrained_features.measures import centred, class_means, gram

F64 = torch.float64
PLAIN = {"num_classes": 4, "samples_per_class": 50, "num_features": 20, "weight_decay": 5e-3, "feature_decay": 1e-3}
SMALL = {"num_classes": 4, "samples_per_class": 6, "num_features": 6, "weight_decay": 5e-3, "feature_decay": 1e-3}
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


def model(seed=0, **arguments):
    return UnconstrainedFeatures(**{**SMALL, **arguments}, generator=torch.Generator().manual_seed(seed))


def largest_gradient(ufm):
    ufm.set_gradients()
    return max(parameter.grad.abs().max().item() for parameter in ufm.parameters())


def descend(ufm, num_steps, lr=0.5):
    ufm.run(torch.optim.SGD(ufm.parameters(), lr=lr, momentum=0.9), num_steps)
    return measures(ufm)


def minimise(ufm, max_iter=2000):
    options = {"tolerance_grad": 1e-12, "tolerance_change": 1e-17, "line_search_fn": "strong_wolfe"}
    ufm.run(torch.optim.LBFGS(ufm.parameters(), max_iter=max_iter, history_size=30, **options), 1)
    return ufm().detach()


# The objective and its gradient.


def test_the_objective_is_the_one_of_the_paper_for_two_layers_with_relu_and_bias():
    ufm = model(depth=2, activation="relu", bias=True, weight_decay=[0.3, 0.2], feature_decay=0.1, bias_decay=0.05)
    with torch.no_grad():
        ufm.bias.normal_()
        logits = ufm.weights[1][0] @ (ufm.weights[0][0] @ ufm.features[0]).relu() + ufm.bias[0][:, None]
    one_hot = torch.nn.functional.one_hot(torch.arange(4).repeat_interleave(6)).T
    expected = (logits - one_hot).square().sum() / (2 * 24)
    for decay, tensor in ((0.3, ufm.weights[1]), (0.2, ufm.weights[0]), (0.1, ufm.features), (0.05, ufm.bias)):
        expected = expected + decay / 2 * tensor.square().sum()
    assert ufm().item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("alpha", "M"), [(1.0, 1.0), (5.0, 2.0)])
def test_the_gradient_in_closed_form_is_autograds(depth, bias, activation, alpha, M):
    if activation and depth == 1:
        return
    decays = [0.02, 0.01, 0.03][:depth]
    ufm = model(
        depth=depth, bias=bias, activation=activation, alpha=alpha, M=M, weight_decay=decays, num_replicas=3,
        bias_decay=0.1 * bias,
    )  # fmt: skip
    expected = torch.autograd.grad(ufm().sum(), list(ufm.parameters()))
    ufm.set_gradients()
    for parameter, gradient in zip(ufm.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_the_mean_of_squares_is_the_same_problem_with_the_decays_divided_by_half_the_classes():
    ufm = model(bias=True)
    logits, labels = ufm.outputs()[0].T, torch.arange(4).repeat_interleave(6)
    mean = torch.nn.functional.mse_loss(logits, torch.nn.functional.one_hot(labels).to(F64))
    decay = sum(5e-3 / 2 * w.square().sum() for w in ufm.weights) + 1e-3 / 2 * ufm.features.square().sum()
    assert (mean + decay / 2).item() == pytest.approx(ufm().item() / 2)  # K / 2 = 2


# Replicas.


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_replica_is_what_a_single_run_from_the_same_draw_is(activation):
    options = {"depth": 2, "activation": activation, "bias": True}
    together = model(num_replicas=3, **options)
    alone = model(seed=9, **options)
    with torch.no_grad():
        for mine, theirs in zip(alone.parameters(), together.parameters()):
            mine.copy_(theirs[1:2])
    descend(together, 100, lr=0.1)
    descend(alone, 100, lr=0.1)
    for mine, theirs in zip(alone.parameters(), together.parameters()):
        torch.testing.assert_close(mine[0], theirs[1], rtol=1e-12, atol=1e-14)


def test_a_grid_of_decays_is_as_many_models():
    weight_decay = [[1e-3, 2e-3], [3e-3, 4e-3]]
    grid = model(depth=2, num_replicas=2, weight_decay=weight_decay, feature_decay=[1e-3, 2e-3])
    descend(grid, 50, lr=0.1)
    alone = model(depth=2, weight_decay=weight_decay[1], feature_decay=2e-3)
    start = model(depth=2, num_replicas=2)
    with torch.no_grad():
        for mine, theirs in zip(alone.parameters(), start.parameters()):
            mine.copy_(theirs[1:2])
    descend(alone, 50, lr=0.1)
    torch.testing.assert_close(alone.features[0], grid.features[1], rtol=1e-12, atol=1e-14)
    assert alone.closed_form().objective.item() == pytest.approx(grid.closed_form().objective[1].item())


def test_the_start_may_differ_between_replicas_in_size():
    ufm = model(num_replicas=2, init_std=[0.1, 0.4], num_features=50, samples_per_class=50)
    assert ufm.features.std((1, 2)).tolist() == pytest.approx([0.1, 0.4], rel=0.05)


# Closed forms.


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("num_features", [2, 3, 4, 7])
@pytest.mark.parametrize(("bias", "bias_decay"), [(False, 0.0), (True, 0.0), (True, 0.01), (True, 0.3)])
@pytest.mark.parametrize("M", [1.0, 3.0])
def test_a_minimiser_is_a_critical_point_of_the_objective_that_is_told(depth, num_features, bias, bias_decay, M):
    options = {"depth": depth, "num_features": num_features, "bias": bias, "bias_decay": bias_decay, "M": M}
    ufm = model(weight_decay=[3e-3, 5e-3, 2e-3][:depth], num_replicas=2, **options)
    ufm.place(ufm.minimiser())
    found = measures(ufm)
    assert largest_gradient(ufm) < 1e-12
    assert found["gap"].abs().max() < 1e-12
    if num_features > 3:
        assert max(found[f"H{layer}/gram_error"].max() for layer in range(1, depth + 1)) < 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_one_layer_of_the_deep_formula_is_the_plain_closed_form(seed):
    weight_decay, feature_decay = (
        10 ** -(1 + 3 * torch.rand(2, generator=torch.Generator().manual_seed(seed)))
    ).tolist()
    solution = model(weight_decay=weight_decay, feature_decay=feature_decay).closed_form()
    s = math.sqrt(6 * weight_decay * feature_decay)
    z = max(1 - 4 * s, 0)
    assert solution.sigma.item() == pytest.approx(z, abs=1e-12)
    assert solution.objective.item() == pytest.approx((z - 1) ** 2 / 2 + 4 * s * z, abs=1e-12)
    expected = math.sqrt(weight_decay / (6 * feature_decay)) * z * torch.eye(4, dtype=F64)
    torch.testing.assert_close(solution.grams[0, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("bias_decay", "sigma_ones", "bias", "structure"),
    [(0.0, 0.0, 0.25, "ETF"), (0.01, 0.0, 0.247525, "ETF"), (0.1, 0.3043, 0.158114, "interpolated"),
     (1.0, 0.8735, 0.015811, "interpolated")],
)  # fmt: skip
def test_a_decay_of_the_bias_leads_from_the_simplex_to_the_orthogonal_frame(bias_decay, sigma_ones, bias, structure):
    solution = UnconstrainedFeatures(**PLAIN, bias=True, bias_decay=bias_decay).closed_form()
    assert solution.sigma_ones.item() == pytest.approx(sigma_ones, abs=5e-5)
    assert solution.bias.item() == pytest.approx(bias, abs=5e-7)
    assert solution.structure == (structure,)


@pytest.mark.parametrize(("num_features", "objective"), [(1, 0.265311), (2, 0.155623), (3, 0.045934), (4, 0.045934)])
def test_with_few_dimensions_only_so_many_directions_are_kept(num_features, objective):
    options = {**PLAIN, "num_features": num_features, "bias": True, "init_std": 0.1}
    ufm = UnconstrainedFeatures(**options, num_replicas=2, generator=torch.Generator().manual_seed(0))
    found = descend(ufm, 5000)
    assert ufm.closed_form().objective[0].item() == pytest.approx(objective, abs=5e-7)
    assert found["gap"].abs().max() < 1e-9
    floor = math.sqrt(2 - 2 * math.sqrt(min(num_features, 3) / 3))
    assert found["H1/etf"].tolist() == pytest.approx([floor] * 2, abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"bias": True, "bias_decay": 0.1}])
def test_descent_finds_the_closed_form(options):
    ufm = UnconstrainedFeatures(**PLAIN, **options, init_std=0.1, generator=torch.Generator().manual_seed(1))
    found = descend(ufm, 4000)
    assert found["gap"].abs().item() < 1e-10
    assert found["H1/gram_error"].item() < 1e-6
    assert found["H1/nc1"].item() < 1e-12
    if options:
        assert found["bias_error"].item() < 1e-6


def test_decays_that_are_too_large_leave_nothing():
    with pytest.warns(UserWarning, match="the global minimiser is zero"):
        ufm = UnconstrainedFeatures(**{**PLAIN, "weight_decay": 0.1, "feature_decay": 0.1}, init_std=0.1)
    found = descend(ufm, 2000)
    assert ufm.closed_form().structure == ("zero",)
    assert ufm.closed_form().collapsed.all()
    assert found["weights"].item() < 1e-6
    assert found["gap"].item() == pytest.approx(0.0, abs=1e-12)
    assert all(found[f"H1/{name}"].isnan().all() for name in ("nc1", "of", "etf", "alignment"))


@pytest.mark.parametrize("bias_decay", [0.05, 0.3])
@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_is_found_below_the_closed_form(depth, bias_decay):
    options = {"samples_per_class": 2, "bias": True, "bias_decay": bias_decay, "init_std": 0.5}
    ufm = model(depth=depth, num_replicas=4, **options)
    minimise(ufm, 400)
    gaps = measures(ufm)["gap"].tolist()
    assert min(gaps) > -1e-12
    assert min(gaps) < 1e-7  # and it is reached


@pytest.mark.parametrize(
    ("alpha", "M", "diagonal"), [(5.0, 1.0, 0.9905132), (1.0, 5.0, 4.952566), (5.0, 5.0, 4.9905132)]
)
def test_the_rescaled_minimum_is_symmetric_and_is_reached(alpha, M, diagonal):
    options = {**PLAIN, "bias": True, "alpha": alpha, "M": M, "init_std": 0.3}
    ufm = UnconstrainedFeatures(**options, generator=torch.Generator().manual_seed(0))
    outputs = ufm.closed_form().outputs()[0]
    assert outputs[0, 0].item() == pytest.approx(diagonal, abs=5e-7)
    assert outputs[0, 1].item() == pytest.approx(math.sqrt(50 * 5e-6), abs=1e-12)  # c / K
    assert abs(minimise(ufm, 600) - ufm.closed_form().objective).item() < 1e-8
    ufm.place(ufm.minimiser())
    assert largest_gradient(ufm) < 1e-12


def test_a_small_weight_on_the_true_class_leaves_only_the_bias():
    ufm = model(bias=True, alpha=0.1, weight_decay=0.05, feature_decay=0.05)
    solution = ufm.closed_form()
    assert solution.structure == ("zero",)
    assert minimise(ufm, 300).item() == pytest.approx(solution.objective.item(), abs=1e-12)


def test_hand_check_of_a_stationary_point_that_is_not_optimal():
    kappa = 111 / 256 / 4  # K kappa = sigma^(1/3) (1 - sigma) at sigma = 27 / 64
    with pytest.warns(UserWarning, match="the global minimiser is zero"):
        ufm = model(samples_per_class=1, depth=2, weight_decay=kappa, feature_decay=kappa)
    assert ufm.closed_form().structure == ("zero",)
    assert ufm.closed_form().sigma.item() == 0
    ufm.place(ufm.critical_point())
    assert largest_gradient(ufm) < 1e-14
    torch.testing.assert_close(class_means(ufm.outputs(), 4)[0], 27 / 64 * torch.eye(4, dtype=F64))
    assert ufm().item() > 0.5


def test_hand_check_of_an_optimal_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ufm = UnconstrainedFeatures(2, 1, 2, depth=2, weight_decay=0.12195, feature_decay=0.12195)
    solution = ufm.closed_form()
    assert solution.sigma.item() == pytest.approx(0.729, abs=1e-12)
    assert solution.objective.item() == pytest.approx(0.333059, abs=5e-7)
    ufm.place(ufm.minimiser())
    found = measures(ufm)
    assert found["H1/norm"].item() == pytest.approx(0.81)
    assert found["H2/norm"].item() == pytest.approx(0.6561)
    assert ufm.weights[1].square().sum((0, 2)).tolist() == pytest.approx([0.81, 0.81])


@pytest.mark.parametrize(
    ("factor", "sigma", "objective", "structure"),
    [(0.8, 0.5505, 0.4722065, "OF"), (0.98, 0.5050, 0.4974747, "OF"), (1.02, 0.4950, 0.5024752, "zero"),
     (1.2, 0.4495, 0.5227167, "zero"), (1.6, 0.3247, 0.5569268, "zero")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the decays are so large")
def test_beyond_the_threshold_zero_is_better_than_the_stationary_point(factor, sigma, objective, structure):
    decay = (factor / 16 / (4**3 * 10)) ** (1 / 3)
    options = {"samples_per_class": 10, "num_features": 8, "depth": 2}
    ufm = model(weight_decay=decay, feature_decay=decay, **options)
    ufm.place(ufm.critical_point())
    assert largest_gradient(ufm) < 1e-15
    assert ufm().item() == pytest.approx(objective, abs=5e-8)
    assert class_means(ufm.outputs(), 4)[0, 0, 0].item() == pytest.approx(sigma, abs=5e-5)
    assert ufm.closed_form().structure == (structure,)


def test_the_root_vanishes_at_decays_that_are_larger_still():
    with pytest.warns(UserWarning, match="the global minimiser is zero"):
        ufm = model(depth=2, weight_decay=0.2, feature_decay=0.2)
    with pytest.raises(ValueError, match=r"rank must be 0 with decays as large as these, got None"):
        ufm.critical_point()


def test_balanced_factors_at_the_minimum():
    ufm = model(depth=2, weight_decay=[4e-3, 2e-3])
    ufm.place(ufm.minimiser())
    first, second = (weight[0] for weight in ufm.weights)
    torch.testing.assert_close(4e-3 * second.T @ second, 2e-3 * first @ first.T)
    torch.testing.assert_close(2e-3 * first.T @ first, 1e-3 * ufm.features[0] @ ufm.features[0].T)


@pytest.mark.parametrize("rotation", [0, 1])
def test_with_relu_the_linear_minimum_is_attained(rotation):
    ufm = model(depth=2, activation="relu", num_replicas=2)
    ufm.place(ufm.minimiser(torch.Generator().manual_seed(rotation)))
    found = measures(ufm)
    linear = model(depth=2).closed_form()
    assert largest_gradient(ufm) < 1e-12
    assert ufm().tolist() == pytest.approx([linear.objective.item()] * 2, abs=1e-13)
    assert found["H2/of"].max() < 1e-12
    assert ufm.layer_features()[1].min() >= 0
    assert ufm.closed_form().grams[:, 0].isnan().all()
    torch.testing.assert_close(ufm.closed_form().grams[:1, 1], linear.grams[:, 1])


@pytest.mark.parametrize("eps", [0.0, 0.5, 1.0])
def test_with_relu_the_first_layer_of_a_minimum_need_not_be_an_orthogonal_frame(eps):
    ufm = UnconstrainedFeatures(2, 3, 2, depth=2, activation="relu", weight_decay=[5e-3, 4e-3], feature_decay=2e-3)
    solution, n = ufm.closed_form(), 3
    total = ufm.problem.kappa * solution.sigma ** (2 / 3)
    length = (total / (n * 2e-3)).sqrt() * (total / 4e-3).sqrt()  # of the second layer's class means
    before = length * torch.tensor([[1.0, -eps], [-eps, 1.0]], dtype=F64)
    left, values, right = torch.linalg.svd(before)
    ratio = (n * 2e-3 / 4e-3) ** 0.25  # balanced factors, the cheapest that have this product
    first, means = left * values.sqrt() * ratio, values.sqrt()[:, None] * right / ratio
    last = torch.eye(2, dtype=F64) * (total / 5e-3).sqrt()
    ufm.place({"features": means.repeat_interleave(n, 1)[None], "weights.0": first[None], "weights.1": last[None]})
    found = measures(ufm)
    assert ufm().item() == pytest.approx(solution.objective.item(), abs=1e-13)
    assert found["H2/of"].item() == pytest.approx(0.0, abs=1e-12)
    assert found["H2/nuclear_ratio"].item() == pytest.approx(1.0, abs=1e-12)
    assert (found["H1/of"].item() > 0.1) == (eps > 0)


# Saddles.


@pytest.mark.parametrize(("rank", "negative"), [(0, 18), (1, 10), (2, 4)])
def test_every_saddle_has_the_negative_eigenvalues_of_the_theory(rank, negative):
    ufm = model(bias=True, bias_decay=0.01)
    ufm.place(ufm.saddle(rank))
    values = hessian_eigenvalues(ufm)
    assert largest_gradient(ufm) < 1e-15
    assert values[0].item() == pytest.approx(3e-3 - math.sqrt(4e-6 + 1 / (16 * 6)), abs=1e-8)
    assert (values < -1e-9).sum() == negative


def test_the_minimum_has_none():
    ufm = model(bias=True, bias_decay=0.01)
    ufm.place(ufm.minimiser())
    assert (hessian_eigenvalues(ufm) < -1e-9).sum() == 0


@pytest.mark.parametrize(("options", "rank", "directions"), [({}, 1, 3), ({"bias": True, "bias_decay": 0.5}, 1, 3)])
def test_the_all_ones_direction_counts_where_the_minimum_keeps_it(options, rank, directions):
    ufm = model(**options)
    ufm.place(ufm.saddle(rank))
    assert (hessian_eigenvalues(ufm) < -1e-9).sum() == directions * (6 - rank)


def test_lanczos_finds_the_smallest_eigenvalues_of_the_whole_hessian():
    ufm = model(num_replicas=2, bias=True, depth=2, activation="relu")
    whole = hessian_eigenvalues(ufm, replica=1)
    torch.testing.assert_close(hessian_eigenvalues(ufm, replica=1, smallest=4), whole[:4], rtol=1e-8, atol=1e-10)


def test_the_origin_is_a_strict_minimum_of_the_deep_model():
    ufm = model(depth=2, weight_decay=[4e-3, 2e-3])
    ufm.place(ufm.critical_point(rank=0))
    values = hessian_eigenvalues(ufm)
    assert values.min().item() == pytest.approx(1e-3)
    assert values.max().item() == pytest.approx(4e-3)


def test_descent_leaves_a_saddle_and_finds_the_minimum():
    ufm = model(bias=True, num_replicas=2)
    ufm.place(ufm.saddle(1))
    ufm.perturb(1e-6, torch.Generator().manual_seed(0))
    assert descend(ufm, 4000)["gap"].abs().max() < 1e-10


# Measures.


def test_measures_of_a_frame_with_scatter_are_those_computed_by_hand():
    features = torch.kron(torch.eye(3), torch.tensor([2.0, 4.0])).to(F64)
    assert variability(features[None], 3).item() == pytest.approx(2 / 27)
    blind = torch.cat([3 * torch.eye(3).repeat_interleave(2, 1), torch.tensor([[1.0, -1, 1, -1, 1, -1]])]).to(F64)
    assert variability(blind[None], 3).item() == pytest.approx(0.0, abs=1e-15)  # scatter off the means' span
    means = class_means(features[None], 3)
    assert of_distance(gram(means)).item() == pytest.approx(0.0, abs=1e-15)
    assert etf_distance(gram(centred(means))).item() == pytest.approx(0.0, abs=1e-15)
    assert self_duality(torch.eye(3, dtype=F64)[None], centred(means)).item() == pytest.approx(2 - 2 * math.sqrt(2 / 3))


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_the_two_frames_are_told_apart_without_centring_only(num_classes):
    eye = torch.eye(num_classes, dtype=F64)[None]
    etf = eye - 1 / num_classes
    apart = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    assert of_distance(etf).item() == pytest.approx(apart)
    assert etf_distance(eye).item() == pytest.approx(apart)
    assert etf_distance(gram(centred(eye))).item() == pytest.approx(0.0, abs=1e-12)
    assert frame_distance(3 * eye, eye[0]).item() == pytest.approx(0.0, abs=1e-15)


def test_measures_agree_with_the_metric_for_networks():
    ufm = model(num_replicas=2, bias=True)
    with torch.no_grad():
        ufm.bias.normal_(generator=torch.Generator().manual_seed(0))
    found, y = measures(ufm), torch.arange(4).repeat_interleave(6)
    for i in range(2):
        expected = neural_collapse(ufm.features.data[i].T, y, ufm.weights[0].data[i], ufm.bias.data[i])
        names = {"H1/nc1": "nc1", "H1/etf_centred": "nc2_features", "H1/of": "of_features", "nc4_bias": "nc4_bias"}
        for name, of_metric in names.items():
            assert found[name][i].item() == pytest.approx(expected[of_metric].item(), rel=1e-10)


# The experiment.


def experiment(**arguments):
    torch.manual_seed(0)
    options = {**SMALL, "num_replicas": 2, "init_std": 0.3, "bias": True, "steps_per_epoch": 4, "growth": 1.3}
    return UFMExperiment(**{**options, **arguments})


def fit(module, max_epochs, **options):
    trainer = pl.Trainer(max_epochs=max_epochs, **QUIET)
    trainer.fit(module, **options)
    kept = [one.final_curves for one in trainer.callbacks if hasattr(one, "final_curves")]
    return trainer, {name: curve for curves in kept for name, curve in curves.items()}


def test_an_experiment_makes_the_steps_that_it_tells():
    module = experiment()
    trainer, curves = fit(module, 6)
    expected = [round(4 * (1.3**e - 1) / 0.3) for e in range(7)]
    assert curves["gap/1"][0] == expected
    torch.manual_seed(0)
    alone = UnconstrainedFeatures(**SMALL, num_replicas=2, init_std=0.3, bias=True)
    found = descend(alone, expected[-1])
    torch.testing.assert_close(module.model.features, alone.features)
    assert curves["H1/nc1/1"][1][-1] == pytest.approx(found["H1/nc1"][1].item())
    assert trainer.callback_metrics["gap"].item() == pytest.approx(found["gap"].mean().item())
    assert trainer.callback_metrics["steps"] == expected[-1]
    product = gram(class_means(alone.features, 4))[0].flatten().tolist()
    assert curves["H1/gram/0"][1] == pytest.approx(product)


def test_a_resumed_experiment_goes_on_where_it_was(tmp_path):
    whole = experiment(perturbation=0.1)
    _, curves = fit(whole, 5)
    first, _ = fit(experiment(perturbation=0.1), 3)
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = experiment(perturbation=0.1)
    _, resumed = fit(second, 5, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(second.model.features, whole.model.features)
    assert resumed == curves


def test_the_start_is_measured_before_it_is_perturbed():
    module = experiment(start_rank=[0, 2], perturbation=1e-3, hessian=True)
    _, curves = fit(module, 1)
    assert curves["gradient/0"][1][0] < 1e-15
    assert curves["gradient/0"][1][1] > 1e-6
    assert [sum(value < -1e-9 for value in curves[f"hessian/{i}"][1]) for i in range(2)] == [18, 4]


def test_an_experiment_is_restored_from_its_checkpoint(tmp_path):
    trainer, _ = fit(experiment(depth=2, activation="relu"), 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    restored = UFMExperiment.load_from_checkpoint(tmp_path / "one.ckpt")
    assert torch.equal(restored.model.features, trainer.model.model.features)
    assert restored.steps_until(2) == trainer.model.steps_until(2)


def test_a_replica_that_ends_at_zero_is_named():
    with pytest.warns(UserWarning, match="Replicas 0 have collapsed to zero: their directions are NaN"):
        _, curves = fit(experiment(depth=2, init_std=[1e-6, 0.3], steps_per_epoch=1000, bias=False), 1)
    assert math.isnan(curves["H2/nc1/0"][1][-1])
    assert not math.isnan(curves["H2/nc1/1"][1][-1])
    assert curves["objective/0"][1][-1] == pytest.approx(0.5)


# Errors.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"samples_per_class": 0}, "samples_per_class must be at least 1, got 0"),
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
        ({"activation": "tanh", "depth": 2}, "activation must be None or 'relu', got 'tanh'"),
        ({"activation": "relu"}, "depth must be at least 2 with an activation, which stands between weights, got 1"),
        ({"weight_decay": 0.0}, "weight_decay must be > 0, got 0.0"),
        ({"weight_decay": [1e-3, math.nan], "depth": 2}, r"weight_decay must be > 0, got \[0.001, nan\]"),
        ({"weight_decay": [1e-3, 1e-3]}, r"weight_decay must be one value, 1 for the layers, or 1 times 1, got"),
        ({"feature_decay": -1.0}, "feature_decay must be > 0, got -1.0"),
        ({"feature_decay": [1e-3] * 3}, r"feature_decay must be one value, or one for each of 1 replicas, got"),
        ({"bias_decay": -1.0, "bias": True}, "bias_decay must be >= 0, got -1.0"),
        ({"bias_decay": 1.0}, "bias_decay must be 0 without a bias, got 1.0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"M": math.nan}, "M must be > 0, got nan"),
        ({"init_std": 0.0}, "init_std must be > 0, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        ({"growth": 0.5}, "growth must be at least 1, got 0.5"),
        ({"perturbation": math.nan}, "perturbation must be >= 0, got nan"),
        ({"start_rank": [1, 1, 1]}, r"start_rank must be one rank, or one for each of 2 replicas, got \[1, 1, 1\]"),
        ({"start_rank": 5}, r"rank must be in \[0, 3\], got 5"),
        ({"hessian": True, "num_features": 200}, r"hessian must be false beyond 2000 parameters of a replica, got"),
    ],
)
def test_an_experiment_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu", "depth": 2, "bias": True}, "activation 'relu' and a bias are not known"),
        ({"activation": "relu", "depth": 3}, "depth must be 2, got 3"),
        ({"activation": "relu", "depth": 2, "num_features": 3}, "num_features must be at least 4, got 3"),
        ({"alpha": 2.0}, "with alpha other than 1 the minimisers are known for depth 1, a bias without decay"),
    ],
)
def test_what_is_not_known_is_said(arguments, message):
    with pytest.raises(NotImplementedError, match=message):
        model(**arguments).closed_form()


def test_points_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\], as the minimum keeps 3, got 3"):
        model(bias=True).saddle(3)
    with pytest.raises(NotImplementedError, match="saddles are known for depth 1, got 2"):
        model(depth=2).saddle(0)
    with pytest.raises(NotImplementedError, match="with activation 'relu' rank must be 0 or 4, got 2"):
        model(depth=2, activation="relu").critical_point(2)
    with pytest.raises(NotImplementedError, match="with alpha other than 1 critical points are not known"):
        model(bias=True, alpha=2.0).critical_point(2)
    with pytest.raises(ValueError, match=r"replica must be in \[0, 1\), got 1"):
        hessian_eigenvalues(model(), replica=1)
    with pytest.raises(ValueError, match=r"smallest must be in \[1, 168\), got 168"):
        hessian_eigenvalues(model(), smallest=168)


def test_a_start_that_leads_to_zero_is_warned_of():
    options = {**PLAIN, "depth": 2}
    with pytest.warns(UserWarning, match=r"init_std may be too small to get away from zero, got 0.03"):
        UnconstrainedFeatures(**options, init_std=0.03)
    with pytest.warns(UserWarning, match="with samples_per_class 1 features cannot vary"):
        model(samples_per_class=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnconstrainedFeatures(**options, init_std=0.05)
