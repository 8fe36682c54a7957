"""Values that are written in Python source, read as data: nothing of it is imported or run.

A name leads to a value step by step, between periods: an assigned name or attribute (`x`, `self.x`), a class
or a function, a key of a table. A function stands for what it returns last. Gaps of an f-string come out as
`{name}`.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def literal(text: str, name: str) -> Any:
    """The value of `name`: strings, lists and tables of them.

    Args:
        text: Python source, or a page of Markdown with blocks of it between fences.
        name: its steps, such as `TABLE.key`, `Maker.build` or `Maker.settings.words`.

    Raises:
        ValueError: the text is neither, has no such name, or what it names is no literal.
    """
    for tree in _trees(text):
        found = _follow(tree, name.split("."))
        if found is not None:
            return _value(found)
    raise ValueError(f"nothing is called {name}")


def _trees(text: str) -> Iterator[ast.AST]:
    try:
        yield ast.parse(text)
    except (SyntaxError, RecursionError):
        for block in _FENCED.findall(text):
            try:
                yield ast.parse(block)
            # A page may hold blocks of other languages, and sketches.
            except (SyntaxError, RecursionError):
                continue


def _follow(scope: ast.AST, steps: Sequence[str]) -> ast.AST | None:
    """The expression at the end of the steps; None where one leads nowhere."""
    if not steps:
        return _returned(scope) if isinstance(scope, ast.FunctionDef) else scope
    if isinstance(scope, ast.Dict):
        pairs = zip(scope.keys, scope.values, strict=True)
        ends: list[ast.AST] = [
            value for key, value in pairs if isinstance(key, ast.Constant) and key.value == steps[0]
        ]
    else:
        ends = [found for node in ast.walk(scope) if (found := _named(node, steps[0])) is not None]
    return next((found for end in ends if (found := _follow(end, steps[1:])) is not None), None)


def _named(node: ast.AST, name: str) -> ast.AST | None:
    """What a statement calls by that name."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
        return node
    if isinstance(node, ast.Assign) and name in (_target(target) for target in node.targets):
        return node.value
    return None


def _target(target: ast.expr) -> str | None:
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else None


def _returned(function: ast.FunctionDef) -> ast.AST | None:
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return values[-1] if values else None


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_part, node.values))
    if not isinstance(node, ast.expr):
        raise ValueError("not a value")
    return ast.literal_eval(node)


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
        return f"{{{part.value.id}}}"
    raise ValueError("a gap that is no name")
