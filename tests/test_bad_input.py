"""What a user may get wrong on the command line of any recipe is told in one message, before any training."""

import ast
import functools
import math
import re
import types
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from zoo.cli import FROM_DATA
from zoo.recipes import main, recipes
from zoo.usage import LEAST, MAY_BE_INFINITE, check_numbers, own_options

PACKAGES = [Path(__file__).parents[1] / name for name in ("zoo", "datamodules", "callbacks")]
WORDS = st.from_regex(r"xq[a-z]{2,6}", fullmatch=True)  # of no choice, no file, no class and no YAML number

SIGNED = {"seed", "classes", "feature_mean", "mean", "padding_value", "curvatures"}  # a negative number is fine
AT_LEAST_ONE = {  # whole numbers; others may be 0: no padding, no warm-up, no corrupted label
    *("batch_size", "eval_batch_size", "hidden_channels", "latent_dim", "max_epochs", "mc_samples", "num_draws"),
    *("num_inputs", "num_instances", "num_nets", "num_particles", "num_paths", "num_replicas", "num_samples"),
    *("num_triples", "steps_per_epoch", "width"),
}
POSITIVE = {"alpha_u", "alpha_v", "barrier", "gamma", "inverter_lr", "lr", "ridge", "sigma_max", "sigma_min"}
POSITIVE |= {"step_size", "temperature", "tol"}
AT_LEAST_ZERO = {"consistency_weight", "deviation_weight", "jacobian_weight", "l2", "noise", "noise_std"}
AT_LEAST_ZERO |= {"ramp_epochs", "weight_decay", "feature_decay", "bias_decay"}
SHARES = {"dropout", "input_dropout", "min_lr_ratio", "momentum", "small_margin_fraction", "test_fraction"}
SHARES |= {"test_small_fraction", "train_fraction", "val_fraction", "damping", "lr_decay"}
BELOW_ONE = {"momentum", "val_fraction"}
CLOSED = {"backbone", "if_unavailable", "name", "precision", "split"}  # texts of which only a few will do

CONTRADICTIONS = [  # the option that every recipe with the first has, what is given, and what the message names
    ("data.subset_per_class", ["--data.subset_per_class=10", "--data.train_fraction=0.5"], "train_fraction"),
    ("data.num_measurements", ["--data.num_measurements=9", "--data.measurement_ratio=0.5"], "measurement_ratio"),
    ("model.milestones", ["--model.milestones=[3, 2]", "--model.lr_schedule=step"], "milestones"),
    ("", ["--trainer.max_epochs=5", "--ckpt_path=last"], "ckpt_path"),
    ("", ["--trainer.val_check_interval=1.0", "--trainer.overfit_batches=-0.5"], "overfit_batches"),
    ("", ["--trainer.fast_dev_run=true", "--ckpt_path=best"], "ckpt_path"),
]


class TrainingBeganError(Exception):
    """The wrong value was taken."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch):
    def begin(*args):
        raise TrainingBeganError

    monkeypatch.setattr("zoo.cli.Started.on_fit_start", begin)


@functools.cache
def options_of(recipe: str) -> dict[str, Any]:
    """Type of every option of the recipe's model and data, but for those of the model that the data decides."""
    config = yaml.safe_load(recipes()[recipe].path.read_text(encoding="utf-8"))
    linked = {f"model.{name}" for name in FROM_DATA.values()} if "data" in config else set()
    found = {action.dest: getattr(action, "_typehint", None) for action in own_options(config)._actions}
    unusable = {name for name in found if name.endswith(".help")} | linked
    return {name: hint for name, hint in found.items() if hint is not None and name not in unusable}


def leaves(hint: Any) -> set[Any]:
    """The types that a value may have; ``(Sequence, x)`` for several of type x, ``Literal`` for a choice."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return set().union(*map(leaves, get_args(hint)))
    if origin is Literal:
        return {Literal}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {(Sequence, inner) for inner in leaves(get_args(hint)[0])}
    return {hint}


def wrong_type(name: str, kinds: set[Any]) -> list[st.SearchStrategy[str]]:
    """Values of another type than the option's, or of none of its choices."""
    several = {kind[1] for kind in kinds if isinstance(kind, tuple)}
    if str in kinds or str in several or Any in kinds:
        return [WORDS] if name in CLOSED else []
    found = [WORDS]
    if several:
        return [*found, WORDS.map("{{{}: 1}}".format), WORDS.map("[{}]".format)]
    if kinds <= {int, float, bool, Literal, type(None)}:
        found.append(st.just("[1, 2]"))
    if int in kinds and float not in kinds:
        found.append(st.integers(-99, 99).map("{}.5".format))
    return found


def out_of_range(name: str, kinds: set[Any]) -> list[st.SearchStrategy[str]]:
    """Numbers of the option's type that cannot be meant; several of them where it takes several."""
    several = {kind[1] for kind in kinds if isinstance(kind, tuple)}
    found: list[st.SearchStrategy[Any]] = []
    if float in kinds | several:
        found += [st.just(".nan")] + [st.sampled_from([".inf", "-.inf"])] * (name not in MAY_BE_INFINITE)
        if name in POSITIVE | AT_LEAST_ZERO | SHARES:
            found.append(st.floats(-1e6, -1e-6))
        if name in POSITIVE:
            found.append(st.just(0.0))
        if name in SHARES:
            found.append(st.floats(1.0 if name in BELOW_ONE else 1.001, 1e6))
    elif int in kinds | several and name not in SIGNED:
        found.append(st.integers(-(10**6), -1))
        if name in AT_LEAST_ONE:
            found.append(st.just(0))
    only_several = several and not kinds & {int, float}
    return [strategy.map("[{}]".format if only_several else str) for strategy in found]


@st.composite
def wrong_values(draw: st.DrawFn, recipe: str) -> tuple[list[str], str]:
    """A wrong value of an option, and the option's last name."""
    options = {
        option: strategies
        for option, hint in options_of(recipe).items()
        for name in [option.rsplit(".", 1)[-1]]
        if (strategies := wrong_type(name, leaves(hint)) + out_of_range(name, leaves(hint)))
    }
    option = draw(st.sampled_from(list(options)))
    return [f"--{option}={draw(st.one_of(options[option]))}"], option.rsplit(".", 1)[-1]


@st.composite
def misspelt(draw: st.DrawFn, recipe: str) -> tuple[list[str], str]:
    """An option with a letter twice or without one."""
    options = options_of(recipe)
    option = draw(st.sampled_from([option for option in options if "." in option]))
    group, name = option.rsplit(".", 1)
    place = draw(st.integers(0, len(name) - 1))
    wrong = name[:place] + (name[place] * 2 if draw(st.booleans()) else "") + name[place + 1 :]
    assume(wrong and f"{group}.{wrong}" not in options and wrong not in FROM_DATA.values())
    return [f"--{group}.{wrong}=1"], wrong


def without_value(recipe: str) -> st.SearchStrategy[tuple[list[str], str]]:
    """An option that ends the line."""
    return st.sampled_from(list(options_of(recipe))).map(lambda option: ([f"--{option}"], option))


@st.composite
def wrong_for_trainer(draw: st.DrawFn, recipe: str) -> tuple[list[str], str]:
    """Numbers that the Trainer or the seed cannot have."""
    least: dict[str, int] = {"max_epochs": -1, "max_steps": -1, "devices": 1, "limit_train_batches": 0, **LEAST}
    name = draw(st.sampled_from([*least, "seed_everything", "gradient_clip_val", "accelerator"]))
    if name == "seed_everything":
        return [f"--{name}={draw(st.one_of(st.integers(-99, -1), st.integers(2**32, 2**40), WORDS))}"], name
    number = st.integers(least[name] - 99, least[name] - 1) if name in least else st.nothing()
    return [f"--trainer.{name}={draw(st.one_of(number, WORDS))}"], name


def missing_files(recipe: str) -> st.SearchStrategy[tuple[list[str], str]]:
    """Files that are not there."""
    return st.tuples(st.sampled_from(["config", "ckpt_path"]), WORDS).map(
        lambda drawn: ([f"--{drawn[0]}={drawn[1]}.ckpt"], drawn[0])
    )


def contradictory(recipe: str) -> st.SearchStrategy[tuple[list[str], str]]:
    """Options that cannot be had together."""
    options = {"", *options_of(recipe)}
    return st.sampled_from([(words, name) for needed, words, name in CONTRADICTIONS if needed in options])


OTHER_MISTAKES = [misspelt, without_value, wrong_for_trainer, missing_files, contradictory]


def message_to(recipe: str, words: list[str], capsys: pytest.CaptureFixture[str], own: Sequence[str] = ()) -> str:
    """The one message of a command that must fail before it trains or writes anything."""
    capsys.readouterr()
    try:
        assert main(["--model", recipe, "--trainer.accelerator=cpu", *words]) == 2
    except TrainingBeganError:
        pytest.fail(f"{recipe} takes {words}")
    err = capsys.readouterr().err
    lines = err[err.rindex("error: ") :].splitlines()  # after warnings, as of a stand-in
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert not [path for path in Path.cwd().rglob("*") if path.is_file() and path.name not in own]
    return lines[0]


def hold(check, mistakes: st.SearchStrategy[tuple[list[str], str]], recipe: str, examples: int) -> None:
    """Draw mistakes for a recipe, others than for the next recipe of the same classes."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow]
    how = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=quiet,
        phases=[Phase.generate],  # a mistake is its own smallest example
    )
    seed(zlib.crc32(recipe.encode()))(how(given(mistakes)(check)))()


@pytest.mark.parametrize("recipe", list(recipes()))
def test_a_wrong_value_is_told_with_its_option(recipe, capsys):
    def check(mistake):
        words, name = mistake
        assert re.search(rf"\b{re.escape(name)}\b", message_to(recipe, words, capsys))

    hold(check, wrong_values(recipe), recipe, examples=4)


@pytest.mark.parametrize("recipe", list(recipes()))
def test_other_mistakes_are_told_with_what_is_wrong(recipe, capsys):
    def check(mistake):
        words, name = mistake
        assert re.search(rf"\b{re.escape(name)}\b", message_to(recipe, words, capsys))

    hold(check, st.one_of([kind(recipe) for kind in OTHER_MISTAKES]), recipe, examples=2)


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("adai", "model.num_classes"),
        ("gcn", "model.in_channels"),
        ("momentum_margin", "model.dim"),
        ("dcrnn", "model.init_args.out_channels"),
    ],
)
def test_what_the_data_decides_cannot_be_contradicted(recipe, option, capsys):
    name = option.replace("init_args.", "")
    assert f"--{name}: is taken from the data" in message_to(recipe, [f"--{option}=3"], capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model.optimizer.lr=-1", "lr: Invalid learning rate: -1"),
        ("--model.optimizer.lr=.nan", "--model.optimizer.lr: must be a finite number, got nan"),
        ("--model.optimizer.weight_decay=.inf", "--model.optimizer.weight_decay: must be a finite number, got inf"),
        ("--model.criterion=[1, 2]", "--model.criterion: expected an instance of Module, got [1, 2]"),
        ("--data.label_noise=datamodules.Noise", "--data.label_noise"),
        ("--data.root=a_file", "root must be a folder"),
        ("--trainer.default_root_dir=a_file/below", "--trainer.default_root_dir: must be a folder"),
        ("--trainer.max_time=forever", "--trainer.max_time"),
        ("--trainer.precision=7", "--trainer.precision"),
        ("--config=a_file", "--config: "),
        ("--ckpt_path=", "ckpt_path must be a checkpoint file"),
        ("--ckpt_path=a_file", "ckpt_path 'a_file' is not a checkpoint that can be read"),
    ],
)
def test_what_others_report_is_told_with_the_option(words, message, capsys, workplace):
    (workplace / "a_file").write_text("half: [")
    assert message in message_to("sgd_momentum", [words], capsys, ["a_file"])


def test_a_nested_option_that_there_is_not_is_told_in_full(capsys):
    assert "--model.optimizer.lr: there is no such option" in message_to("gcn", ["--model.optimizer.lr=1"], capsys)


def test_infinity_is_left_to_those_that_take_it():
    solver = {"class_path": "zoo.sgilo.ILO", "init_args": {"radius": math.inf, "lr": 0.1}}
    check_numbers({"model": {"class_path": "zoo.sgilo.InverseEvaluation", "init_args": {"solvers": {"ilo": solver}}}})
    check_numbers({"model": {"class_path": "mine.Model", "init_args": {"fill": math.nan}}})
    solver["init_args"]["lr"] = math.inf
    with pytest.raises(ValueError, match=re.escape("--solvers.ilo.lr: must be a finite number, got inf")):
        check_numbers({"solvers": {"ilo": solver}})


class Trap:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_a_checkpoint_that_would_run_code_is_refused(capsys, workplace):
    torch.save({"state_dict": Trap()}, "trap.ckpt")
    message = message_to("gcn", ["--ckpt_path=trap.ckpt"], capsys, ["trap.ckpt"])
    assert "it must hold tensors and plain values, as other contents could run as code" in message
    assert "weights_only" not in message  # PyTorch's advice is to read it nonetheless


def test_nothing_in_the_packages_unpickles_what_could_run_code():
    """Every ``torch.load`` reads weights only, NumPy takes no pickles, and nobody calls pickle.

    What is left are the raw files of Planetoid and CIFAR, published as pickles: PyG and torchvision read these.
    """
    loads = 0
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            place = f"{path}:{call.lineno}"
            if name == "torch.load":
                loads += 1
                assert given.get("weights_only") == "True", place
            assert name.rsplit(".", 1)[-1] != "load_from_checkpoint" or given.get("weights_only") == "True", place
            assert given.get("allow_pickle", "False") == "False", place
            assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"), place
    assert loads > 5
