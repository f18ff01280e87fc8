"""The nodes of the domain ``anyflow``: inputs, attributes, outputs, and an ONNX function each that computes them.

The function goes into the file beside the nodes. Whoever has no kernel of that name, as ONNX Runtime, runs it; whoever
has one, as TensorRT with our plugins, does not look at it. Names, order and meaning are those of ``kernels.library``;
an operator with optional inputs is one kind of node here for each way it is called, since a kernel takes a fixed list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

DOMAIN, VERSION = "anyflow", 1
OPSET = 23
"""Of the functions' bodies, and of the graphs that are exported."""

FOR_PARSER: Mapping[str, str | int] = {"plugin_namespace": DOMAIN, "aot": 1}
"""Attributes by which TensorRT's parser takes a node for a plugin, before it looks for a function of that name."""


@dataclass(frozen=True)
class NodeKind:
    """One kind of node. ``attributes``: int or float each; ``body``: lines of ONNX's text format."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: str
    attributes: Mapping[str, type] = field(default_factory=dict)

    @cached_property
    def function(self) -> ir.Function:
        """The body as a local function. Needs the onnx package."""
        import onnx.parser

        attributes = ", ".join((*self.attributes, *FOR_PARSER))
        text = (
            f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n'
            f"{self.name} <{attributes}> ({', '.join(self.inputs)}) => ({', '.join(self.outputs)}) {{\n{self.body}\n}}"
        )
        return ir.serde.deserialize_function(onnx.parser.parse_function(text))


def _number(name: str, attribute: str) -> str:
    """``name`` is a scalar with the value of an attribute."""
    return f"{name} = Constant <value_int: int = @{attribute}> ()"


def _row(name: str, modulation: str, table: str, attribute: str) -> str:
    """``name`` (B, F, 1, D) is a row of modulation + table."""
    return f"""
        {_number(f"{name}_index", attribute)}
        {name}_axis = Constant <value_ints = [2]> ()
        {name}_rows = Add ({modulation}, {table})
        {name}_row = Gather <axis = 2> ({name}_rows, {name}_index)
        {name} = Unsqueeze ({name}_row, {name}_axis)"""


_ADDED = """
        branch_wide = Cast <to = 1> (branch)"""
_GATED = f"""
        branch_read = Cast <to = 1> (branch)
        {_row("gate", "gate_modulation", "gate_table", "gate_row")}
        branch_wide = Mul (branch_read, gate)"""
_JOINED = """
        residual_wide = Cast <to = 1> (residual)
        total = Add (residual_wide, branch_wide)
        joined = CastLike (total, residual)
        x = Cast <to = 1> (joined)"""
_ALONE = """
        x = Cast <to = 1> (residual)"""
_MODULATED = f"""
        width = Shape <start = -1> (x)
        ones = ConstantOfShape <value: tensor = float[1] {{1.0}}> (width)
        centred = LayerNormalization <axis = -1, epsilon: float = @eps> (x, ones)
        {_row("scale_row", "modulation", "table", "scale")}
        {_row("shift_row", "modulation", "table", "shift")}
        one = Constant <value_float = 1.0> ()
        factor = Add (scale_row, one)
        scaled = Mul (centred, factor)
        y = Add (scaled, shift_row)
        normalised = Cast <to: int = @normalised_type> (y)"""
_AFFINE = """
        y = LayerNormalization <axis = -1, epsilon: float = @eps> (x, gain, bias)
        normalised = Cast <to: int = @normalised_type> (y)"""
_HEADS = f"""
        {_number("head_count", "heads")}
        first_axis = Constant <value_ints = [0]> ()
        kept = Constant <value_ints = [0, 0]> ()
        rest = Constant <value_ints = [-1]> ()
        head_size = Unsqueeze (head_count, first_axis)
        in_heads = Concat <axis = 0> (kept, head_size, rest)"""


def _normed(part: str, gain: str) -> str:
    """``part``_tokens -> ``part``_heads (B, heads, L, d)."""
    return f"""
        {part}_wide = Cast <to = 1> ({part}_tokens)
        {part}_normed = RMSNormalization <axis = -1, epsilon: float = @eps> ({part}_wide, {gain})
        {part}_split = Reshape ({part}_normed, in_heads)
        {part}_heads = Transpose <perm = [0, 2, 1, 3]> ({part}_split)"""


def _turned(part: str) -> str:
    return f"""
        {part}_first, {part}_second = Split <axis = 3, num_outputs = 2> ({part}_heads)
        {part}_1 = Mul ({part}_first, rope_cos)
        {part}_2 = Mul ({part}_second, rope_sin)
        {part}_3 = Mul ({part}_second, rope_cos)
        {part}_4 = Mul ({part}_first, rope_sin)
        {part}_real = Sub ({part}_1, {part}_2)
        {part}_imaginary = Add ({part}_3, {part}_4)
        {part}_turned = Concat <axis = -1> ({part}_real, {part}_imaginary)
        {part} = CastLike ({part}_turned, packed)"""


def _attended(bias: str) -> str:
    return f"""
        query_wide = Cast <to = 1> (query)
        key_wide = Cast <to = 1> (key)
        value_wide = Cast <to = 1> (value)
        size = Shape <start = -1> (query)
        size_wide = Cast <to = 1> (size)
        root = Sqrt (size_wide)
        key_turned = Transpose <perm = [0, 1, 3, 2]> (key_wide)
        products = MatMul (query_wide, key_turned)
        {bias}
        weights = Softmax <axis = -1> (scores)
        sums = MatMul (weights, value_wide)
        rows = Transpose <perm = [0, 2, 1, 3]> (sums)
        flat = Constant <value_ints = [0, 0, -1]> ()
        output_wide = Reshape (rows, flat)
        output = CastLike (output_wide, value)"""


_VECTORS = ("modulation", "table")
_GATE = ("gate_modulation", "gate_table")
_NORM_ATTRIBUTES = {"shift": int, "scale": int, "eps": float, "normalised_type": int}
_AFFINE_ATTRIBUTES = {"eps": float, "normalised_type": int}
_GATE_ATTRIBUTES = {"gate_row": int}

KINDS = {
    kind.name: kind
    for kind in (
        NodeKind("AdaptiveNorm", ("residual", *_VECTORS), ("normalised",), _ALONE + _MODULATED, _NORM_ATTRIBUTES),
        NodeKind("Join", ("residual", "branch", *_GATE), ("joined",), _GATED + _JOINED, _GATE_ATTRIBUTES),
        NodeKind(
            "JoinAffine",
            ("residual", "branch", *_GATE, "gain", "bias"),
            ("joined", "normalised"),
            _GATED + _JOINED + _AFFINE,
            _GATE_ATTRIBUTES | _AFFINE_ATTRIBUTES,
        ),
        NodeKind(
            "JoinNorm",
            ("residual", "branch", *_GATE, *_VECTORS),
            ("joined", "normalised"),
            _GATED + _JOINED + _MODULATED,
            _GATE_ATTRIBUTES | _NORM_ATTRIBUTES,
        ),
        NodeKind(
            "AddNorm",
            ("residual", "branch", *_VECTORS),
            ("joined", "normalised"),
            _ADDED + _JOINED + _MODULATED,
            _NORM_ATTRIBUTES,
        ),
        NodeKind(
            "QkNormRope",
            ("packed", "query_gain", "key_gain", "rope_cos", "rope_sin"),
            ("query", "key"),
            _HEADS
            + """
        query_tokens, key_tokens, value_tokens = Split <axis = 2, num_outputs = 3> (packed)"""
            + _normed("query", "query_gain")
            + _turned("query")
            + _normed("key", "key_gain")
            + _turned("key"),
            {"heads": int, "eps": float},
        ),
        NodeKind(
            "QueryNorm",
            ("packed", "query_gain"),
            ("query",),
            _HEADS
            + """
        query_tokens = Identity (packed)"""
            + _normed("query", "query_gain")
            + """
        query = CastLike (query_heads, packed)""",
            {"heads": int, "eps": float},
        ),
        NodeKind(
            "FlowMapUpdate",
            ("tokens", "state", "interval"),
            ("updated",),
            f"""
        {_number("side", "patch")}
        first_axis = Constant <value_ints = [0]> ()
        patch_size = Unsqueeze (side, first_axis)
        batch_frames = Shape <start = 0, end = 2> (state)
        channels = Shape <start = 2, end = 3> (state)
        height = Shape <start = 3, end = 4> (state)
        width = Shape <start = 4, end = 5> (state)
        rows = Div (height, patch_size)
        columns = Div (width, patch_size)
        grid = Concat <axis = 0> (batch_frames, rows, columns, patch_size, patch_size, channels)
        wide = Cast <to = 1> (tokens)
        patches = Reshape (wide, grid)
        pixels = Transpose <perm = [0, 1, 6, 2, 4, 3, 5]> (patches)
        whole = Shape (state)
        velocity = Reshape (pixels, whole)
        state_axes = Constant <value_ints = [2, 3, 4]> ()
        step = Unsqueeze (interval, state_axes)
        change = Mul (step, velocity)
        updated = Sub (state, change)""",
            {"patch": int},
        ),
        NodeKind("PlainAttention", ("query", "key", "value"), ("output",), _attended("scores = Div (products, root)")),
        NodeKind(
            "BiasedAttention",
            ("query", "key", "value", "key_bias"),
            ("output",),
            _attended("""scaled = Div (products, root)
        bias_axes = Constant <value_ints = [1, 2]> ()
        bias_row = Unsqueeze (key_bias, bias_axes)
        scores = Add (scaled, bias_row)"""),
        ),
    )
}
"""By name. Shapes: residual, branch, joined, normalised (B, F, N, D); modulation (B, F, rows, D), or one row for all of
the table's; table (rows, D); gain, bias (D,); packed (B, L, heads * d), for ``QkNormRope`` three times that;
angles (L, d/2); query, key, value (B, heads, L, d); key_bias (B, Lk); output (B, L, heads * d); tokens (B, L, p p C);
state (B, F, C, H, W); interval (B, F).

State, interval, vectors, gains, angles and biases are float32; ``joined`` is of the residual's type, ``normalised`` of
``normalised_type`` (ONNX's number of it), queries and keys of ``packed``'s. ``patch`` is p; ``gate_row``, ``shift`` and
``scale`` are rows."""
