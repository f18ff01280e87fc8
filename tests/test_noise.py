"""The starting noise equals PyTorch's, draw by draw."""

import subprocess
import sys
import time

import numpy as np
import pytest

from anyflow_rt.errors import UsageError
from anyflow_rt.noise import _torch_generator, _words, initial_noise

torch = pytest.importorskip("torch")


def reference(seed, shape):
    """(B, C, F, H, W) from torch, in the sampler's (B, F, C, H, W) order."""
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)
    return noise.permute(0, 2, 1, 3, 4).numpy()


def ours(seed, shape):
    noise = initial_noise(seed, *shape)
    assert noise.dtype == np.float32 and noise.flags.c_contiguous
    return noise


@pytest.mark.parametrize("count", [*range(1, 65), 255, 256, 257, 1000, 16383, 16384, 16385, 16400, 49999, 100_003])
def test_equals_torch_at_every_length(count):
    shape = (1, 1, 1, 1, count)
    np.testing.assert_allclose(ours(count, shape), reference(count, shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 16, 5, 8, 8), (3, 16, 1, 8, 8), (2, 4, 3, 5, 7), (2, 1, 3, 1, 2)])
def test_shapes_are_permuted_like_the_reference(shape):
    np.testing.assert_allclose(ours(7, shape), reference(7, shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, -1, -5, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63, 2**64 - 1, -(2**63)])
def test_every_seed_torch_takes(seed):
    shape = (1, 2, 1, 3, 5)
    np.testing.assert_allclose(ours(seed, shape), reference(seed, shape), rtol=0, atol=1e-6)


def test_numpy_integer_seed_is_an_integer():
    assert np.array_equal(initial_noise(np.int64(3), 1, 1, 1, 4, 4), initial_noise(3, 1, 1, 1, 4, 4))


def test_the_uniform_stream_is_the_same_bit_for_bit():
    generator = torch.Generator("cpu").manual_seed(11)
    expected = torch.rand(5000, generator=generator).numpy()
    found = (_words(_torch_generator(11), 5000) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    assert np.array_equal(found, expected)


def test_a_list_of_seeds_is_one_generator_a_video():
    seeds, shape = [5, -2, 2**40], (3, 16, 2, 3, 3)
    expected = np.concatenate([reference(seed, (1, *shape[1:])) for seed in seeds])
    np.testing.assert_allclose(ours(seeds, shape), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours([9], (1, 4, 2, 3, 3)), reference(9, (1, 4, 2, 3, 3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, "4", None, True, [1], [1, 2, 3], [1, False], [1, 2**70]])
def test_bad_seeds_are_named(seed):
    with pytest.raises(UsageError) as error:
        initial_noise(seed, 2, 1, 1, 4, 4)
    bad = seed[-1] if isinstance(seed, list) and len(seed) == 2 else seed
    assert (f"{len(seed)} seeds" if isinstance(seed, list) and len(seed) != 2 else str(bad)) in str(error.value)


def test_full_size_is_quick_and_equal():
    shape = (1, 16, 21, 60, 104)  # 81 frames of 480x832
    elapsed = []
    for _ in range(5):
        start = time.process_time()
        noise = ours(3, shape)
        elapsed.append(time.process_time() - start)
    np.testing.assert_allclose(noise, reference(3, shape), rtol=0, atol=1e-6)
    assert abs(float(noise.mean())) < 3e-3 and abs(float(noise.std()) - 1) < 3e-3
    assert min(elapsed) < 0.2  # 0.05 s on an idle machine; the rest is room for a busy one


def test_no_heavy_import():
    code = (
        "import sys; import anyflow_rt.noise, anyflow_rt.sampling.schedule; "
        "bad = {'torch', 'numpy.random', 'diffusers', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
