"""Pages of the site, from what lies in the repository: a hook of MkDocs, so that nothing is kept twice.

A page has the path of its file, so most links hold as they are. Those to a source file lead to the page of its package,
those to ``examples`` to a page that has them all.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)]*)?\)")
HOME = {"README.md": "index.md", "RESULTS.md": "RESULTS.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}


def on_config(config: Any) -> Any:
    """The table of contents."""
    rooms = [{name: [f"zoo/{name}/README.md", f"api/{name}.md", *_reports(name)]} for name in _rooms()]
    shared = [name for name in _packages() if name not in _rooms()]
    config["nav"] = [
        {"The zoo": "index.md"},
        {"Results": "RESULTS.md"},
        {"Papers": rooms},
        {"Shared parts": [{name: f"api/{name}.md"} for name in shared]},
        {"Examples": "examples.md"},
        {"Adding a paper": "CONTRIBUTING.md"},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages and their figures."""
    for uri, content in pages():
        files.append(File.generated(config, uri, content=content))
    for figure in sorted(ROOT.glob("reports/**/figure.png")):
        uri = figure.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(figure)))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of every page."""
    for source, uri in HOME.items():
        yield uri, _linked(_text(source), source)
    for name in _rooms():
        source = f"zoo/{name}/README.md"
        figure = f"reports/{name}/figure.png"
        shown = f"\n\n## Ours beside the paper's\n\n![The figure of the report](../../{figure})\n"
        yield source, _linked(_text(source), source) + (shown if (ROOT / figure).is_file() else "")
        for report in _reports(name):
            yield report, _linked(_text(report), report)
    for name, package in _packages().items():
        yield f"api/{name}.md", _api(name, package)
    yield "examples.md", _examples()


def _rooms() -> list[str]:
    return [path.parent.name for path in sorted(ROOT.glob("zoo/*/README.md"))]


def _packages() -> dict[str, str]:
    """The packages that have public names, by the name of their page."""
    modules = [*ROOT.glob("zoo/*/__init__.py"), *(ROOT / name / "__init__.py" for name in ("datamodules", "callbacks"))]
    found = {path.parent.name: ".".join(path.parent.relative_to(ROOT).parts) for path in sorted(modules)}
    single = {name: f"zoo.{name}" for name in ("classifier", "simulation") if (ROOT / f"zoo/{name}.py").is_file()}
    return {**found, **single}


def _reports(name: str) -> list[str]:
    paths = [ROOT / "reports" / name / "report.md", ROOT / "reports" / name / "full/report.md"]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.is_file()]


def _api(name: str, package: str) -> str:
    folder = ROOT.joinpath(*package.split("."))
    tree = ast.parse(_text(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")))
    names = _public(tree)
    first, *rest = (ast.get_docstring(tree) or name).split("\n", 1)
    head = [f"# `{package}`", first, *rest]
    return "\n\n".join([*head, *(f"::: {package}.{public}" for public in names)]) + "\n"


def _public(tree: ast.Module) -> list[str]:
    """The names in ``__all__``; without it, the classes and functions that the module defines."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    defined = [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in defined if not name.startswith("_")]


def _examples() -> str:
    parts = ["# Examples", "The parts in code that is not ours."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        title = path.stem.replace("_", " ")
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n```python\n{_text(path)}```")
    return "\n\n".join(parts) + "\n"


def _text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _linked(text: str, source: str) -> str:
    """The text with links that lead to pages of the site; code is left as it is."""
    here = posixpath.dirname(HOME.get(source, source))

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        page = posixpath.relpath(_page(path, source), here or ".")
        return f"[{match['text']}]({page}{match['anchor'] or ''})"

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(block if block.startswith("```") else LINK.sub(replaced, block) for block in blocks)


def _page(path: str, source: str) -> str:
    parts = path.split("/")
    if path in HOME:
        return HOME[path]
    if parts[0] == "examples":
        return "examples.md"
    if path.endswith(".md") and (ROOT / path).is_file():
        return path
    package = parts[1] if parts[0] == "zoo" and len(parts) > 1 else parts[0]
    if package.removesuffix(".py") in _packages():
        return f"api/{package.removesuffix('.py')}.md"
    raise PluginError(f"{source} links to {path}, of which the site has no page")
