"""The source files of ours that a run imports, found by reading import statements: nothing is imported to find them."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "datamodules", "callbacks")
COMMAND = Path("zoo/cli.py")  # without what it imports for messages, logs and tables
NOT_RUN = "claim.py"  # judges and draws finished runs; it may change without a run becoming another one


def code_hash(room: Path, config: dict[str, Any], root: Path = ROOT) -> str:
    """Hash of names and contents of all source files that can change what a run measures.

    These are the files of the paper's room except ``claim.py``, those of the classes that the configuration names,
    whatever of ours these import, and the command's own.

    Args:
        room: The paper's folder.
        config: The run's whole configuration.
        root: The folder that holds the packages.
    """
    digest = hashlib.sha256()
    for path in sorted(source_files(room, set(class_paths(config)), root)):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def source_files(room: Path, classes: Iterable[str], root: Path = ROOT) -> set[Path]:
    """The files that :func:`code_hash` covers.

    Args:
        room: The paper's folder.
        classes: Full names of the classes that the configuration names.
        root: The folder that holds the packages.
    """
    waiting = {path for path in room.rglob("*.py") if path.name != NOT_RUN}
    waiting |= set(_files((defining_module(name, root) for name in classes), root))
    found = {root / COMMAND}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= set(_files(imported_modules(path, root), root)) - found
    return found


def class_paths(config: object) -> Iterator[str]:
    """Every ``class_path`` in a configuration.

    Example:
        >>> list(class_paths({"model": {"class_path": "zoo.Net", "init_args": {"loss": [{"class_path": "zoo.Loss"}]}}}))
        ['zoo.Net', 'zoo.Loss']
    """
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from class_paths(value)


def imported_modules(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Modules that a file's import statements name, with re-exported names led back to where they are defined."""
    package = ".".join(path.relative_to(root).parent.parts)
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (defining_module(f"{module}.{alias.name}", root) for alias in node.names)


def defining_module(name: str, root: Path = ROOT) -> str:
    """The module that defines ``package.Name``, where packages may only pass on what their modules define.

    Example:
        >>> defining_module("datamodules.PlanetoidDataModule")
        'datamodules.planetoid'
    """
    module, _, attribute = name.rpartition(".")
    if not module or _file(name, root) is not None:
        return name
    path = _file(module, root)
    if path is None or path.name != "__init__.py":
        return module
    for node in _nodes(path):
        if isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), module)
            for alias in node.names:
                if attribute == (alias.asname or alias.name):
                    return defining_module(f"{source}.{alias.name}", root)
    return module


def _nodes(path: Path) -> Sequence[ast.Import | ast.ImportFrom]:
    return _imports(path.read_bytes())


@cache
def _imports(source: bytes) -> Sequence[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _files(modules: Iterable[str], root: Path) -> Iterator[Path]:
    for module in modules:
        path = _file(module, root)
        if path is not None:
            yield path


def _file(module: str, root: Path) -> Path | None:
    """The file of one of our modules, ``None`` for what is not ours."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    place = root.joinpath(*parts)
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in files if path.is_file()), None)
