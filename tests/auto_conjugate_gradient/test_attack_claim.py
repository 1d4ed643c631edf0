import numpy as np
import pytest
from scipy.stats import binom

from zoo.auto_conjugate_gradient.claim import CLAIM, RECIPES, TITLES, figure, mcnemar
from zoo.claims import Measurement, Results, setting

ATTACKS = {
    "auto_conjugate_gradient": ["acg", "apgd"],
    "auto_conjugate_gradient_mnist": list(TITLES),
    "attack_variants": ["textbook", "clamped", "gradient_ascent"],
    "attack_restarts": ["acg_1", "apgd_5", "acg_5"],
}
BROKEN = {"acg": 497, "apgd": 482, "textbook": 490, "clamped": 483, "gradient_ascent": 482}
BROKEN |= {"acg_1": 120, "apgd_5": 121, "acg_5": 124}
INDEX = {"acg": 0.21, "apgd": 0.08, "textbook": 0.25, "clamped": 0.09, "gradient_ascent": 0.085}


def metrics_of(recipe):
    found = {}
    for name in ATTACKS[recipe]:
        found |= {
            f"test/success/{name}": BROKEN[name] / 940,
            f"test/num_broken/{name}": BROKEN[name],
            f"test/num_attacked/{name}": 940,
            f"test/diversity_index/{name}": INDEX.get(name, np.nan),
            f"test/margin/{name}": -0.04 if name == "acg" else -0.06,
            f"test/gradients/{name}": 101,
            f"test/seconds/{name}": 50,
            f"test/num_contradicted/{name}": 0,
            f"test/num_outside/{name}": 0,
        }
        for other in ATTACKS[recipe]:
            if other != name:
                found[f"test/only/{name}_not_{other}"] = 16 if name == "acg" else 1
                found[f"test/higher/{name}_than_{other}"] = 243
    return found


def results(scale="small", recipe=None, **changes):
    """What runs of these numbers would have left; changes are those of one recipe's metrics."""
    measured = []
    for run in CLAIM.runs(scale):
        metrics = metrics_of(run.recipe)
        if run.recipe == recipe:
            metrics |= {f"test/{name.replace('__', '/')}": value for name, value in changes.items()}
        k = [float(i) for i in range(101)]
        curves = {
            f"{what}/{name}": (k, [i / 200 for i in k])
            for what in ("success", "diversity_index")
            for name in ATTACKS[run.recipe]
        }
        curves |= {f"path/{name}/0": ([0.0, 1.0], [0.0, 2.0]) for name in ATTACKS[run.recipe]}
        config = run.config()
        measured.append(
            Measurement(run.recipe, 0, dict(run.overrides), config, metrics, "data", "cpu", 1.0, {}, "", "", curves)
        )
    return Results(measured, scale)


def failed(results):
    return [check.statement for check in CLAIM.verdict(results).checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_numbers_as_measured_reproduce_the_claim(scale):
    verdict = CLAIM.verdict(results(scale))
    assert verdict.reproduced
    assert verdict.figures["CIFAR-10, % broken: ACG"] == [pytest.approx(100 * 497 / 940)]
    assert verdict.figures["CIFAR-10, 100 x Diversity Index: ACG, textbook sign"] == [25]
    assert sum(check.holds is None for check in verdict.checks) == 6


@pytest.mark.parametrize(
    ("recipe", "changes", "statement"),
    [
        ("auto_conjugate_gradient", {"diversity_index__acg": 0.11}, "CIFAR-10: ACG's Diversity Index"),
        ("auto_conjugate_gradient_mnist", {"diversity_index__acg": 0.11}, "MNIST: ACG's Diversity Index"),
        ("auto_conjugate_gradient", {"only__acg_not_apgd": 4}, "breaks more than APGD"),
        ("auto_conjugate_gradient", {"only__apgd_not_acg": 12}, "breaks more than APGD"),
        ("auto_conjugate_gradient", {"num_attacked__acg": 799}, "at least 800 images"),
        ("auto_conjugate_gradient", {"margin__acg": -0.07}, "mean largest margin"),
        ("auto_conjugate_gradient", {"gradients__acg": 102}, "101 gradients"),
        ("auto_conjugate_gradient", {"seconds__acg": 58}, "1.15 times APGD's time"),
        ("attack_variants", {"num_broken__clamped": 485}, "cut off at 0"),
        ("attack_variants", {"diversity_index__clamped": 0.11}, "cut off at 0"),
        ("attack_restarts", {"num_outside__apgd_5": 1}, "every result lies in the ball"),
        ("auto_conjugate_gradient_mnist", {"num_contradicted__acg": 1}, "every result lies in the ball"),
        ("auto_conjugate_gradient", {"margin__acg": float("nan")}, "mean largest margin"),
    ],
)
def test_each_statement_can_fail(recipe, changes, statement):
    found = failed(results(recipe=recipe, **changes))
    assert len(found) == 1
    assert statement in found[0]


def test_mcnemars_test_is_the_tail_of_a_fair_coin():
    for won, lost in ((16, 1), (5, 5), (0, 3)):
        assert mcnemar(won, lost) == pytest.approx(binom.sf(won - 1, won + lost, 0.5))
    assert mcnemar(0, 0) == 1


def test_the_figure_shows_curves_and_paths_of_both_networks():
    drawing = figure(results())
    assert len(drawing.axes) == 6
    lines = [len(axes.lines) for axes in drawing.axes]
    assert lines == [len(TITLES), len(TITLES), 3] * 2


def test_all_comparisons_on_cifar_attack_one_network_at_eps_8_over_255():
    trainings, data = [], []
    for run in CLAIM.runs("small"):
        config = run.config()
        eps = {attack["init_args"]["eps"] for attack in setting(config, "model.attacks").values()}
        if run.recipe == RECIPES["MNIST"]:
            assert eps == {0.3}
            continue
        assert eps == {0.03137255}
        trainings.append(setting(config, "model.training"))
        part = dict(config["data"]["init_args"])
        part.pop("test_fraction")
        data.append(part)
    assert all(one == trainings[0] for one in trainings)
    assert all(one == data[0] for one in data)
