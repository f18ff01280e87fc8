"""Grid formulas: how many programs a launch has, as text over the names of its arguments and constants.

They are text because a compiled kernel outlives the Python that made it: the same formula launches the kernel here
and stands in the metadata of its compiled form. The language: names, whole numbers, ``+ - * //``, ``cdiv(a, b)``.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping

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
    return _value(_parsed(formula), values, formula)


@functools.lru_cache(maxsize=256)
def _parsed(formula: str) -> ast.expr:
    try:
        return ast.parse(formula, mode="eval").body
    except SyntaxError:
        raise EngineError(f"grid formula {formula!r} cannot be read") from None


def _value(node: ast.expr, values: Mapping[str, object], formula: str) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        found = values.get(node.id)
        if isinstance(found, int):
            return found
        raise EngineError(f"grid formula {formula!r} needs {node.id!r}, which is {found!r}; a whole number is needed")
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, values, formula), _value(node.right, values, formula))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "cdiv" and len(node.args) == 2 and not node.keywords:
        return cdiv(*(_value(argument, values, formula) for argument in node.args))
    raise EngineError(f"grid formula {formula!r} holds {ast.unparse(node)!r}; accepted: names, numbers, + - * // cdiv")
