"""Grid formulas: how many programs a launch has, as text over the names of its arguments and constants.

They are text because a compiled kernel outlives the Python that made it: the same formula launches the kernel here,
stands in the metadata of its compiled form, and becomes an expression of sizes that are known later. The language:
names, whole numbers, ``+ - * //``, ``cdiv(a, b)``.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyflow_rt.errors import EngineError

_OPERATIONS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def evaluate(formula: str, values: Mapping[str, object]) -> int:
    """The formula's value. Raises EngineError for names that ``values`` lacks and for anything but the language."""
    number: int = expression(formula, values, (int,), cdiv)
    return number


def expression(
    formula: str, values: Mapping[str, object], kinds: tuple[type, ...], division: Callable[[Any, Any], Any]
) -> Any:
    """The formula over numbers of other ``kinds``, which have ``+ - * //`` with whole numbers on their right.

    ``division`` is what cdiv means. Raises as ``evaluate``.
    """
    return _value(_parsed(formula), _Context(formula, values, kinds, division))


@dataclass(frozen=True)
class _Context:
    formula: str
    values: Mapping[str, object]
    kinds: tuple[type, ...]
    division: Callable[[Any, Any], Any]


@functools.lru_cache(maxsize=256)
def _parsed(formula: str) -> ast.expr:
    try:
        return ast.parse(formula, mode="eval").body
    except SyntaxError:
        raise EngineError(f"grid formula {formula!r} cannot be read") from None


def _value(node: ast.expr, context: _Context) -> Any:
    formula = context.formula
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        found = context.values.get(node.id)
        if isinstance(found, context.kinds):
            return found
        raise EngineError(f"grid formula {formula!r} needs {node.id!r}, which is {found!r}; a whole number is needed")
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, context), _value(node.right, context))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "cdiv" and len(node.args) == 2 and not node.keywords:
        return context.division(*(_value(argument, context) for argument in node.args))
    raise EngineError(f"grid formula {formula!r} holds {ast.unparse(node)!r}; accepted: names, numbers, + - * // cdiv")
