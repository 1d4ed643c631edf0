"""Errors of the user: jsonargparse's reports in one readable line, and the nearest option for a misspelt one."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn, get_args, get_type_hints

from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from zoo.recipes import USAGE

KEY = re.compile(r'Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)')
NOT_ACCEPTED = re.compile(r"Option '(?P<option>[^']+)' is not accepted")
UNRECOGNIZED = re.compile(r"unrecognized arguments: --(?P<option>[^\s=]+)")
GIVEN = re.compile(r"Given value: (?P<value>.*)")
NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|Expected (?:a )?<class 'NoneType'>"
    r"|Subclass types expect one of|a class path \(str\)|a dict with"
)
# What PyTorch and Lightning call otherwise than their options: the start of a message, and the option that it is about.
UNNAMED = {
    "Invalid learning rate": "lr",
    "Invalid beta parameter": "betas",
    "Invalid epsilon value": "eps",
    "`Timer(duration=": "--trainer.max_time",
    "No supported gpu backend found": "--trainer.accelerator",
    "Problems parsing config": "--config",
    "Unexpected config": "--config",
}
OURS = ("zoo.", "datamodules.", "callbacks.", "torch.optim.")  # whose numbers are known to be finite ...
MAY_BE_INFINITE = ("radius", "inverse_temperature")  # ... but for these, where it means no limit and no noise
# Least values of the Trainer's options that it does not check itself.
LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
LARGEST_SEED = 2**32 - 1  # NumPy's
NO_INSTANCE = "expected an instance"  # said after every error of a class's arguments, too

# What may be raised before work starts because the user asks for something that cannot be.
USER_ERRORS = (ValueError, MisconfigurationException, OSError, ImportError)


class UsageError(ValueError):
    """The command line or a configuration file asks for something that there is not.

    Args:
        report: What jsonargparse says.
        options: All options without their dashes.
    """

    def __init__(self, report: str, options: Sequence[str] = ()) -> None:
        super().__init__(report)
        self.options = options


class Parser(LightningArgumentParser):
    """LightningCLI's parser that raises, takes no abbreviated options and has the recipe's own options in its help.

    Attributes:
        own_options: Parser of the options of the recipe's model and data; ``None`` without a recipe.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, usage=USAGE.replace("%", "%%"), description="", allow_abbrev=False, **kwargs)
        self.own_options: LightningArgumentParser | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(message, self.option_names()) from ex

    def option_names(self) -> list[str]:
        """Every option without its dashes."""
        parsers = [self] if self.own_options is None else [self, self.own_options]
        return [name.removeprefix("--") for parser in parsers for name in parser._option_string_actions]

    def format_help(self, *args: Any) -> str:
        everyone = super().format_help(*args)
        if self.own_options is None:
            return everyone + "\nWith --model NAME the options of the recipe's model and data follow.\n"
        own = self.own_options.format_help()
        return everyone + own[own.index("\n\n") :]


def check_values(args: Sequence[str]) -> None:
    """Raise a :class:`UsageError` that names an option without its value; jsonargparse names only the group."""
    for option, following in pairwise([*args, "--"]):
        if option.startswith(("--model.", "--data.", "--trainer.")) and "=" not in option and following[:2] == "--":
            raise UsageError(f"a value is missing after {option}")


def given(args: Sequence[str], options: Iterable[str]) -> str | None:
    """The first of these options, without dashes, that is among the arguments; ``None`` if there is none of them.

    Example:
        >>> given(["--model.lr", "0.1", "--model.init_args.dim=3"], ["model.dim"])
        'model.dim'
    """
    names = [arg.split("=", 1)[0].removeprefix("--").replace(".init_args.", ".") for arg in args if arg[:2] == "--"]
    return next((option for option in options if option in names), None)


def check_numbers(config: Any, option: str = "-") -> None:
    """Refuse NaN and infinity for what is ours, torch's optimizers and the Trainer.

    Args:
        config: The configuration, or a part of it.
        option: Its option, for the message.

    Raises:
        ValueError: If a number is not finite; ``inf`` is left to those that take it.
    """
    if isinstance(config, float) and not math.isfinite(config):
        infinite_is_fine = option.rsplit(".", 1)[-1] in MAY_BE_INFINITE
        if math.isnan(config) or not infinite_is_fine:
            raise ValueError(f"{option}: must be a finite number, got {config}")
    elif isinstance(config, list | tuple):
        for value in config:
            check_numbers(value, option)
    elif isinstance(config, Mapping):
        if not str(config.get("class_path", "zoo.")).startswith(OURS):
            return
        for name, value in config.items():
            inner = option if name == "init_args" else f"--{name}" if option == "-" else f"{option}.{name}"
            check_numbers(value, inner)


def check_trainer(trainer: Mapping[str, Any], seed: Any) -> None:
    """Refuse what the Trainer would take, and fail with or ignore later.

    Args:
        trainer: Its options.
        seed: Of ``--seed_everything``.

    Raises:
        ValueError: If a number is out of range, or the root is no folder.
    """
    for name, least in LEAST.items():
        value = trainer.get(name)
        if value is not None and value < least:
            raise ValueError(f"--trainer.{name}: must be at least {least}, got {value}")
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"--seed_everything: must be in [0, {LARGEST_SEED}], got {seed}")
    root = Path(trainer.get("default_root_dir") or ".").absolute()
    for folder in (root, *root.parents):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--trainer.default_root_dir: must be a folder, got {str(root)!r}: {folder} is a file")


def own_options(config: dict[str, Any]) -> LightningArgumentParser:
    """A parser of the options of a recipe's model and data, for the help and for near misses.

    Args:
        config: The recipe.
    """
    parser = LightningArgumentParser(description="", add_help=False)
    for key in ("model", "data"):
        class_path = (config.get(key) or {}).get("class_path")
        cls = locate(class_path) if class_path else None
        if isinstance(cls, type):
            add_class_options(parser, cls, key)
    return parser


def add_class_options(parser: LightningArgumentParser, cls: type, key: str) -> None:
    """Add the options of a class, and below them those of each argument that is a dataclass."""
    nested = {f"{key}.{name}": kind for name, kind in dataclass_arguments(cls).items()}
    parser.add_class_arguments(cls, key, fail_untyped=False, skip={name.removeprefix(f"{key}.") for name in nested})
    for name, kind in nested.items():
        parser.add_class_arguments(kind, name)


def dataclass_arguments(cls: type) -> dict[str, type]:
    """The arguments of a class, its bases' included, that are dataclasses, with or without ``None``."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base is not object:
            hints |= get_type_hints(base.__init__)  # type: ignore[misc]
    kinds = {
        name: [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
        for name, hint in hints.items()
    }
    return {name: kind[0] for name, kind in kinds.items() if kind}  # type: ignore[misc]


def message_of(error: BaseException) -> str:
    """What to tell the user about one of :data:`USER_ERRORS`."""
    message = str(error)
    for start, option in UNNAMED.items():
        if message.startswith(start):
            return f"{option}: {readable(message)}"
    return readable(message, getattr(error, "options", ()))


def readable(message: str, options: Iterable[str] = ()) -> str:
    r"""One line that says which option is wrong, and what is allowed.

    jsonargparse reports every way in which a value could have been meant, indented as the types are nested.

    Args:
        message: The report.
        options: All options without their dashes, to offer the nearest one.

    Example:
        >>> readable('Parser key "trainer.max_epochs":\n  - Expected a <class \'int\'>\n  Given value: x')
        '--trainer.max_epochs: expected int, got x'
    """
    keys: list[tuple[int, str]] = []
    problems: list[tuple[str, str]] = []
    value = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip())
        found = KEY.match(text)
        if found:
            keys = [(depth, key) for depth, key in keys if depth < indent] + [(indent, found["key"])]
            text = found["rest"]
        given = GIVEN.match(text)
        if given and not given["value"].startswith(("NestedArg", "Namespace")):
            value = given["value"]
        if text and not NOISE.match(text):
            path = ".".join(key for depth, key in keys if depth <= indent)
            if UNRECOGNIZED.match(text):
                return _line(path, [text], "", options)
            problems.append((path, _in_words(text)))
    return _joined(problems, value, options) or message


def _in_words(text: str) -> str:
    text = re.sub(r"^Not a valid subclass of (\w+)$", rf"{NO_INSTANCE} of \1", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r"^Expected (?:an? )?(.*?)\. Got value: ", r"expected \1, got ", text)
    return re.sub(r"^Expected (?:an? )?", "expected ", text)


def _joined(problems: list[tuple[str, str]], value: str, options: Iterable[str]) -> str:
    by_path: dict[str, list[str]] = {}
    for path, problem in problems:
        by_path.setdefault(path, []).append(problem)
    return "; ".join(_line(path, found, value, options) for path, found in by_path.items())


def _line(path: str, problems: list[str], value: str, options: Iterable[str]) -> str:
    problems = [problem for problem in problems if not problem.startswith(NO_INSTANCE)] or problems
    unknown = NOT_ACCEPTED.match(problems[0]) or UNRECOGNIZED.match(problems[0])
    if unknown:
        name = f"{path}.{unknown['option']}".lstrip(".")
        return f"--{name}: there is no such option{nearest(name, options)}"
    expected = [problem.removeprefix("expected ") for problem in problems if problem.startswith("expected ")]
    text = "; ".join(problems)
    if len(expected) == len(problems):
        text = "expected " + " or ".join(expected)
        if value and ", got " not in text:
            text += f", got {value}"
    return f"--{path}: {text}" if path else text


def nearest(name: str, options: Iterable[str]) -> str:
    """The options that are spelt most alike, as the end of a sentence."""
    plain = [option for option in options if not option.endswith((".help", "+"))]
    near = difflib.get_close_matches(name, plain, n=3, cutoff=0.85)
    return f"; did you mean --{' or --'.join(near)}?" if near else "; --help lists all"
