import numpy as np
import pytest
import torch

from zoo.claims import Measurement, Results, setting
from zoo.deep_linear import RankOneFlow, Start, draw_starts
from zoo.deep_linear.claim import (
    CLAIM,
    DIMS,
    EPSILONS,
    GAP_RUN,
    SIZES,
    STEP_SIZES,
    families,
    figure,
    predicted_rate,
    seeds,
    stuck,
)

FAMILIES_RUN = [("deep_linear", families(depth)) for depth in DIMS]


def target(spectrum, d_y, d_x):
    matrix = torch.zeros(d_y, d_x, dtype=torch.float64)
    matrix.diagonal()[: len(spectrum)] = torch.tensor(spectrum, dtype=torch.float64)
    return matrix


def flows(run):
    """The flow of every replica of a run."""
    dims = setting(run.config(), "model.dims")
    spectra = setting(run.config(), "data.singular_values")
    spectra = spectra if isinstance(spectra[0], list) else [spectra]
    starts = [Start(**one) for one in setting(run.config(), "model.starts")]
    Z = torch.stack([target(spectrum, dims[-1], dims[0]) for spectrum in spectra])
    u, v, s = draw_starts(starts, Z, torch.Generator().manual_seed(0))
    return RankOneFlow(Z.repeat_interleave(len(s) // len(Z), dim=0), len(dims) - 1, u, v, s)


def grid(run):
    """The times that a run logs."""
    options = run.config()["model"]["init_args"]
    growth, epochs, first = options["growth"], run.config()["trainer"]["max_epochs"], options["steps_per_epoch"]
    steps = np.cumsum([0.0] + [first * growth**i for i in range(epochs)])
    return steps * (0.001 if isinstance(options["step_size"], list) else options["step_size"])


def exact(run):
    """What a run would measure that follows the closed form."""
    if run.recipe == "deep_linear_gd":
        times = np.outer(np.array(STEP_SIZES) / 0.001, grid(run))
        sizes = np.array(STEP_SIZES)[:, None] + 0 * times
        return {"time": times, "balancedness": 2 * sizes, "flow_error": 3 * sizes}
    flow, times = flows(run), torch.from_numpy(grid(run))
    if run.recipe == "deep_linear_stuck":
        levels = torch.tensor([1.5] * len(SIZES) + [2.5] * len(EPSILONS))
        constant = np.ones((len(levels), len(times)))
        stuck_time = flow.stuck_time(levels)[:, None].numpy() * constant
        return {"time": times.numpy() * constant, "s": constant, "stuck_time": stuck_time}
    state, limit = flow.solve_time(times), flow.limit()
    W, Z = state.W, flow.target[:, None]
    small = torch.zeros_like(state.s)
    found = {
        "time": times.expand_as(state.s),
        "s": state.s,
        "rho": state.rho,
        "distance": torch.linalg.matrix_norm(W - limit.W[:, None]),
        "loss_gap": ((W - Z).square().sum((2, 3)) - (limit.W[:, None] - Z).square().sum((2, 3))) / 2,
    }
    found |= dict.fromkeys(("flow_error", "balancedness", "second_singular_value"), small)
    return {name: value.numpy().copy() for name, value in found.items()}


@pytest.fixture(scope="module")
def exact_values():
    return {i: exact(run) for i, run in enumerate(CLAIM.runs("small"))}


def results(exact_values, change=None):
    """What runs would have left, with changes to the values of some."""
    measured = []
    for i, run in enumerate(CLAIM.runs("small")):
        values = {name: value.copy() for name, value in exact_values[i].items()}
        if change is not None:
            change(run, values)
        curves = {
            f"{name}/{replica}": (list(range(len(row))), row.tolist())
            for name, rows in values.items()
            for replica, row in enumerate(rows)
        }
        device = ("", "cpu", 1.0, {}, "code", "now")
        measured.append(Measurement(run.recipe, run.seed, dict(run.overrides), run.config(), {}, *device, curves))
    return Results(measured, "small")


def failing(found):
    return [check.statement for check in CLAIM.verdict(found).checks if check.holds is False]


def test_the_closed_form_passes_every_check(exact_values):
    assert failing(results(exact_values)) == []
    assert CLAIM.verdict(results(exact_values)).reproduced


def scaled(name, factor, recipe="deep_linear", depth=3, overrides=families):
    """A change of a measure of the run of one depth."""

    def change(run, values):
        if run.recipe == recipe and (recipe == "deep_linear_gd" or run.overrides == overrides(depth)):
            values[name] = factor(values[name])

    return change


def with_row(row, new):
    def factor(values):
        values[row] = new(values[row])
        return values

    return factor


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (scaled("flow_error", lambda y: y + 1e-3), "the integrated weights' product is that of the closed form"),
        (scaled("balancedness", lambda y: y + 1e-5), "balancedness drifts by at most 1e-6"),
        (scaled("second_singular_value", lambda y: y + 1e-11), "and the product keeps rank one"),
        (scaled("distance", with_row(1, lambda y: y + 2e-3)), "12 of 12 starts go where"),
        (scaled("s", with_row(3, lambda y: y + 0.1)), "12 of 12 starts go where"),
        (scaled("distance", with_row(0, lambda y: y**1.05)), "distance and loss gap end with the predicted rates"),
        (
            scaled("loss_gap", with_row(0, lambda y: np.sqrt(np.abs(y)))),
            "distance and loss gap end with the predicted rates",
        ),
        (
            scaled("distance", with_row(2, lambda y: y**1.03), overrides=lambda depth: GAP_RUN),
            "so it does for singular values",
        ),
        (scaled("s", with_row(3, lambda y: y**1.2)), "opposite: s falls to the origin"),
        (scaled("s", with_row(9, lambda y: y**1.1)), "null: s falls to the origin"),
        (scaled("rho", with_row(2, lambda y: -y)), "rho never decreases"),
        (scaled("s", with_row(3, lambda y: y[::-1])), "s never increases"),
        (
            scaled("distance", with_row(7, lambda y: y + 1e-2), overrides=lambda depth: seeds(depth, "small")),
            "N = 3: 256 random starts are within 1e-3",
        ),
        (scaled("stuck_time", lambda y: y * 1.1, "deep_linear_stuck", 2, stuck), "near the origin, N = 2"),
        (scaled("stuck_time", lambda y: y**1.1, "deep_linear_stuck", 3, stuck), "N = 3 and 4: it grows"),
        (scaled("stuck_time", lambda y: y * 1.02, "deep_linear_stuck", 4, stuck), "near the saddle it grows"),
        (scaled("balancedness", lambda y: y**1.05, "deep_linear_gd"), "gradient descent: drift"),
        (scaled("flow_error", lambda y: y**2, "deep_linear_gd"), "its distance from the flow"),
    ],
)
def test_what_the_theory_excludes_fails_its_check(exact_values, change, fails):
    assert any(statement.startswith(fails) for statement in failing(results(exact_values, change)))


def test_the_rates_are_those_of_the_oracle(exact_values):
    for depth in DIMS:
        (run,) = [run for run in CLAIM.runs("small") if run.overrides == families(depth)]
        rates = flows(run).rates()
        assert rates.product[0].item() == pytest.approx(predicted_rate(depth, "random", "distance"))
        assert rates.loss[1].item() == pytest.approx(predicted_rate(depth, "saddle", "loss_gap"))


def test_the_starts_are_those_of_the_recipe():
    (run, *_) = [run for run in CLAIM.runs("small") if run.recipe == "deep_linear_stuck"]
    starts = [Start(**one) for one in setting(run.config(), "model.starts")]
    assert [start.s for start in starts[: len(SIZES)]] == list(SIZES)
    assert [start.epsilon for start in starts[len(SIZES) :]] == list(EPSILONS)
    (gd,) = [run for run in CLAIM.runs("small") if run.recipe == "deep_linear_gd"]
    assert setting(gd.config(), "model.step_size") == list(STEP_SIZES)


def test_the_full_scale_has_more_starts_and_wider_layers():
    wide = [run for run in CLAIM.runs("full") if setting(run.config(), "data.input_dim") == 100]
    assert [setting(run.config(), "model.starts")[0]["number"] for run in wide] == [4096] * 3
    assert [len(setting(run.config(), "model.dims")) for run in wide] == [3, 4, 5]


def test_the_figure_is_drawn(exact_values):
    assert len(figure(results(exact_values)).axes) == 6
