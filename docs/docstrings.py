"""Our docstrings as the site's reader understands them: a section ``Example``, and Sphinx's roles and equations."""

import re
from textwrap import indent
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?P<indent> *)Example:$", re.MULTILINE)
EQUATION = re.compile(r"^(?P<indent> *)\.\. math::(?P<tex>.*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)
SYMBOL = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":\w+:`(?P<short>~?)(?P<name>[^`]+)`")


class Translated(griffe.Extension):
    """Translates every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = translated(obj.docstring.value)


def translated(docstring: str) -> str:
    r"""The docstring with a section ``Examples``, equations between dollars and names as code.

    Example:
        >>> translated("A :class:`~zoo.Net` of width :math:`d`.")
        'A `Net` of width $d$.'
    """
    docstring = EQUATION.sub(_equation, EXAMPLE.sub(r"\g<indent>Examples:", docstring))
    return ROLE.sub(_name, SYMBOL.sub(lambda match: f"${match[1].strip()}$", docstring))


def _equation(match: re.Match[str]) -> str:
    tex = "\n".join(line.strip() for line in match["tex"].strip().splitlines())
    if "&" in tex and r"\begin" not in tex:
        tex = "\\begin{aligned}\n" + tex + "\n\\end{aligned}"
    return indent(f"$$\n{tex}\n$$\n", match["indent"])


def _name(match: re.Match[str]) -> str:
    return f"`{match['name'].rpartition('.')[2] if match['short'] else match['name']}`"
