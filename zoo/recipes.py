"""The recipes: YAML files in the papers' rooms, found by name. Does not import torch, so that it answers at once."""

import ast
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOMS = Path(__file__).parent
VERBS = ("fit", "validate", "test", "predict")
USAGE = """\
python train.py --model NAME [--KEY VALUE ...]           train, then test the best checkpoint
python train.py fit|validate|test|predict --model NAME   do one of these
python train.py --list                                   the recipes by paper
python train.py --help [--model NAME]                    all options, with those of the recipe's model and data"""


class UnknownRecipeError(ValueError):
    """There is no recipe of this name."""


@dataclass(frozen=True)
class Recipe:
    """A named LightningCLI configuration.

    Args:
        path: The YAML file.
    """

    path: Path

    @property
    def name(self) -> str:
        """What ``--model`` calls it."""
        return self.path.stem

    @property
    def summary(self) -> str:
        """The comment in the file's first line."""
        first, *_ = self.path.read_text(encoding="utf-8").splitlines() or [""]
        return first.lstrip("# ").strip() if first.startswith("#") else ""

    @property
    def paper(self) -> str:
        """Title of the paper."""
        return title(self.path.parent)


def title(room: Path) -> str:
    """Title of the paper, from the first line of its room's docstring; the room's name if there is none."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or room.name
    return docstring.splitlines()[0].rstrip(".")


def recipes() -> dict[str, Recipe]:
    """All recipes by name, paper by paper.

    Example:
        >>> recipes()["gcn"].paper
        'Local Augmentation for Graph Neural Networks (Liu et al., ICML 2022)'
    """
    return {path.stem: Recipe(path) for path in sorted(ROOMS.glob("*/*.yaml"))}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UnknownRecipeError: If there is none; the message offers the nearest names.
    """
    known = recipes()
    if name in known:
        return known[name]
    raise UnknownRecipeError(
        f"there is no recipe {name!r}; {did_you_mean(name, known) or 'python train.py --list shows them all.'}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that offers the names spelt most alike; empty if none is near.

    Example:
        >>> did_you_mean("gnc", ["gcn", "gat"])
        'did you mean gcn?'
    """
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""


def listing() -> str:
    """The recipes by paper, one a line, below the ways to call them."""
    known = recipes()
    width = max(map(len, known), default=0)
    lines = [USAGE]
    paper = None
    for recipe in known.values():
        if recipe.paper != paper:
            paper = recipe.paper
            lines += ["", paper]
        lines.append(f"  {recipe.name:<{width}}  {recipe.summary}")
    return "\n".join(lines)


def take_recipe(args: Sequence[str]) -> tuple[Recipe | None, list[str]]:
    """Split ``--model NAME`` off the arguments; a value with a dot is a class, which LightningCLI understands.

    Example:
        >>> recipe, rest = take_recipe(["--model", "gcn", "--model.lr", "0.1"])
        >>> recipe.name, rest
        ('gcn', ['--model.lr', '0.1'])
    """
    rest = list(args)
    for i, arg in enumerate(rest):
        option, equals, value = arg.partition("=")
        if option != "--model":
            continue
        if not equals and (i + 1 == len(rest) or rest[i + 1].startswith("-")):
            raise UnknownRecipeError("--model needs the name of a recipe; python train.py --list shows them all.")
        name = value if equals else rest[i + 1]
        if "." in name or name.startswith("{"):
            continue
        del rest[i : i + (1 if equals else 2)]
        return find_recipe(name), rest
    return None, rest


def main(args: Sequence[str]) -> int:
    """The command ``train.py``.

    Args:
        args: The words after ``train.py``.

    Returns:
        The exit status: 0, 2 after an error of the user, 130 after Ctrl-C.
    """
    if not args or "--list" in args:
        print(listing())
        return 0
    verb, rest = (args[0], args[1:]) if args[0] in VERBS else ("train", args)
    try:
        recipe, overrides = take_recipe(rest)
    except UnknownRecipeError as error:
        from zoo.environment import complain

        return complain(error)
    from zoo.environment import check_environment, complain

    problem = check_environment()
    if problem:
        return complain(problem)
    from zoo.cli import run_command

    return run_command(verb, recipe, overrides)
