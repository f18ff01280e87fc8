"""The starting noise of a run: PyTorch's CPU ``randn`` stream, without PyTorch.

The reference draws ``torch.randn((B, C, F, H, W), generator=torch.Generator("cpu").manual_seed(seed))`` in float32.
Its recipe (ATen's ``MT19937RNGEngine.h`` and ``DistributionTemplates.h``), repeated here:

- the generator is the 32-bit Mersenne Twister, started by Knuth's multiplicative recurrence from the seed's low 32
  bits. CPython's ``random.Random`` holds the same twister, so it only has to be handed that state. (It is loaded
  anyway, where ``numpy.random`` would cost a cold start 20 ms.)
- 16 numbers or more: one word each, its low 24 bits / 2^24, in float32; then Box-Muller within blocks of sixteen,
  number k with number k + 8. When the count is no multiple of 16, the *last sixteen* numbers are drawn anew.
- fewer than 16: Box-Muller in float64 from pairs of 53-bit uniforms, two words each, cosine first, sine second.

The uniforms are the same bit for bit; the normals agree within 1e-6 (one unit in the last place of the largest ones),
because each maths library rounds its logarithms and cosines its own way.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Sequence

import numpy as np

from anyflow_rt.errors import UsageError

SMALLEST_SEED, SEED_CEILING = -(2**63), 2**64
STATE_WORDS = 624
BLOCK = 16  # numbers per Box-Muller block
CHUNK = 1 << 14  # numbers per pass: 64 KB of words, which stay in the processor's cache


def initial_noise(
    seed: int | Sequence[int], batch: int, channels: int, frames: int, height: int, width: int
) -> np.ndarray:
    """Standard normal latents, float32 (batch, frames, channels, height, width); sizes are in latent units.

    An integer seed is one stream over the whole batch. A list or tuple of ``batch`` integers gives every video its
    own generator, so that a video does not depend on what it is batched with. Both are what the reference does with
    one generator and with a list. Raises ``UsageError`` for a seed PyTorch would refuse and for a wrong number of them.
    """
    shape = (channels, frames, height, width)
    count = math.prod(shape)
    if isinstance(seed, (list, tuple)):
        seeds = check_seeds(seed, batch)
        values = np.stack([_standard_normals(one, count) for one in seeds]) if batch else np.empty(0, np.float32)
    else:
        values = _standard_normals(check_seed(seed), batch * count)
    return np.ascontiguousarray(values.reshape(batch, *shape).transpose(0, 2, 1, 3, 4))


def check_seed(seed: object, name: str = "seed") -> int:
    """The seed as an int. Raises ``UsageError`` unless it is an integer from -2^63 up to 2^64 - 1."""
    try:
        value = None if isinstance(seed, (bool, np.bool_)) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None:
        raise UsageError(f"{name} must be an integer, or a list of one integer a video, not {seed!r}")
    if not SMALLEST_SEED <= value < SEED_CEILING:
        raise UsageError(f"{name} {value} is out of range: use an integer from -2**63 to 2**64 - 1")
    return value


def check_seeds(seeds: Sequence[object], batch: int) -> list[int]:
    """A list of seeds as ints. Raises ``UsageError`` unless there is one valid seed for each of ``batch`` videos."""
    if len(seeds) != batch:
        raise UsageError(f"{len(seeds)} seeds were given for {batch} videos: give one a video, or a single integer")
    return [check_seed(seed, f"seed[{index}]") for index, seed in enumerate(seeds)]


def _standard_normals(seed: int, count: int) -> np.ndarray:
    """``torch.randn(count)`` of a CPU generator with this seed: float32 (count,)."""
    generator = _torch_generator(seed)
    if count < BLOCK:
        return _scalar_normals(generator, count)
    normals = np.empty(count, dtype=np.float32)
    whole = count - count % BLOCK
    for start in range(0, whole, CHUNK):
        stop = min(start + CHUNK, whole)
        _box_muller(_uniforms(generator, stop - start), out=normals[start:stop])
    if whole < count:
        _uniforms(generator, count - whole)  # drawn by the reference too, then overwritten
        _box_muller(_uniforms(generator, BLOCK), out=normals[-BLOCK:])
    return normals


def _torch_generator(seed: int) -> random.Random:
    """The twister in the state ``torch.Generator("cpu").manual_seed(seed)`` starts from."""
    word = seed & 0xFFFFFFFF  # two's complement: -1 is 2^64 - 1, as in PyTorch
    state = [word]
    for index in range(1, STATE_WORDS):
        word = (1812433253 * (word ^ (word >> 30)) + index) & 0xFFFFFFFF
        state.append(word)
    generator = random.Random()
    generator.setstate((3, (*state, STATE_WORDS), None))  # position 624: the first draw renews the state
    return generator


def _words(generator: random.Random, count: int) -> np.ndarray:
    """The next ``count`` 32-bit outputs of the twister, uint32. ``randbytes`` packs them first word first."""
    return np.frombuffer(generator.randbytes(4 * count), dtype="<u4")


def _uniforms(generator: random.Random, count: int) -> np.ndarray:
    uniforms = (_words(generator, count) & np.uint32(0xFFFFFF)).astype(np.float32)
    uniforms *= np.float32(2.0**-24)
    return uniforms


def _box_muller(uniforms: np.ndarray, out: np.ndarray) -> None:
    """Normals from float32 uniforms, both (16 n,): sqrt(-2 ln(1 - u)) times cos and sin of 2 pi v, v eight after u."""
    blocks = uniforms.reshape(-1, 2, BLOCK // 2)
    pairs = out.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - blocks[:, 0]))
    angle = np.float32(2.0 * math.pi) * blocks[:, 1]
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])


def _scalar_normals(generator: random.Random, count: int) -> np.ndarray:
    """The reference's path for small tensors: float32 (count,), count under 16."""
    normals: list[float] = []
    while len(normals) < count:
        high_1, low_1, high_2, low_2 = _words(generator, 4).tolist()
        uniform_1 = ((high_1 << 32 | low_1) & (2**53 - 1)) * 2.0**-53
        uniform_2 = ((high_2 << 32 | low_2) & (2**53 - 1)) * 2.0**-53
        radius = math.sqrt(-2.0 * math.log1p(-uniform_2))
        angle = 2.0 * math.pi * uniform_1
        normals += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(normals[:count], dtype=np.float32)
