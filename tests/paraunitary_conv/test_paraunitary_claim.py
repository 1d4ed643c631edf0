import pytest

from zoo.claims import Measurement, Results
from zoo.paraunitary_conv.claim import CLAIM, PLAIN, RADII, figure, networks

ORTHOGONAL = {
    "test/acc": 0.42,
    "test/adversarial_acc": 0.28,
    "test/lipschitz": 0.9,
    "test/lipschitz_bound": 1.0,
    "train/acc": 0.43,
    "orthogonality/error_at_start": 9e-7,
    "orthogonality/error": 2e-6,
} | {f"test/certified_{radius}": 0.24 * 36 / radius for radius in RADII}
UNCONSTRAINED = ORTHOGONAL | {f"test/certified_{radius}": 0.0 for radius in RADII}
UNCONSTRAINED |= {"test/adversarial_acc": 0.1, "test/lipschitz": 9.0, "test/lipschitz_bound": 800.0}


def results(scale="small", layers=None, deep=None, shallow=None, plain=None):
    """What runs would have left in which everything holds, but for what is changed."""
    names = {(recipe, str(settings)): name for name, (recipe, settings) in networks(scale).items()}
    changes = {PLAIN: plain or {}, "depth 5": shallow or {}, "depth 15": deep or {}}
    measured = []
    for run in CLAIM.runs(scale):
        metrics, curves = {}, {}
        if run.recipe == "orthogonal_layers":
            double = "trainer.precision" in run.overrides
            values = {"orthogonality_error": 1e-13 if double else 6e-7, "input_norm": 1.0, "gradient_norm": 0.8}
            values |= layers or {}
            curves = {f"{name}/{i}": ([0.0, 100.0], [value] * 2) for name, value in values.items() for i in range(3)}
        else:
            name = names[run.recipe, str(dict(run.overrides))]
            metrics = (UNCONSTRAINED if name == PLAIN else ORTHOGONAL) | changes.get(name, {})
            curves = {"orthogonality/net.layers.0": ([0.0, 1.0], [1.0, 0.9])}
        run_of = (run.recipe, run.seed, dict(run.overrides), run.config())
        measured.append(Measurement(*run_of, metrics, "", "cpu", 1.0, {}, "c", "now", curves))
    return Results(measured, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_it_is_reproduced_where_everything_holds_and_drawn(scale):
    verdict = CLAIM.verdict(results(scale))
    assert failing(verdict) == []
    assert verdict.reproduced
    assert len(figure(results(scale)).axes) == 2


@pytest.mark.parametrize(("change", "statement"), [
    ({"layers": {"orthogonality_error": 1e-8}}, "float64: all singular values"),
    ({"layers": {"orthogonality_error": 2e-5}}, "float32: all singular values"),
    ({"layers": {"orthogonality_error": float("nan")}}, "float32: all singular values"),
    ({"layers": {"input_norm": 0.9}}, "float32: each layer keeps the norm"),
    ({"layers": {"gradient_norm": 1.1}}, "float32: each layer keeps the norm"),
    ({"deep": {"orthogonality/error": 2e-5}}, "networks: all singular values"),
    ({"shallow": {"orthogonality/error_at_start": 2e-5}}, "networks: all singular values"),
    ({"deep": {"test/lipschitz": 1.001}}, "networks: no pair of images is torn apart"),
    ({"shallow": {"test/adversarial_acc": 0.2}}, "depth 5: certified <= attacked <= clean"),
    ({"plain": {"test/adversarial_acc": 0.5}}, "plain, depth 5: certified <= attacked <= clean"),
    ({"shallow": {"test/acc": 0.35}}, "depth 5: clean accuracy at least 36 %"),
    ({"shallow": {"test/certified_36": 0.16}}, "depth 5: certified at 36/255 at least 17 %"),
    ({"shallow": {"train/acc": 0.48}}, "depth 5: training accuracy less than 5 points above test"),
    ({"deep": {"test/acc": 0.27, "test/adversarial_acc": 0.27}}, "depth 15 trains"),
    ({"plain": {"test/certified_36": 0.02}}, "plain convolutions: less than 1 %"),
])  # fmt: skip
def test_each_statement_can_be_refuted(change, statement):
    verdict = CLAIM.verdict(results(**change))
    assert not verdict.reproduced
    assert any(found.startswith(statement) for found in failing(verdict))
