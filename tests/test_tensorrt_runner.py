"""What of the TensorRT runner is no GPU's business: memory that is used again, and what fits into a GPU's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from anyflow_rt.engines.arrays import copied, to_host, zeros_beside
from anyflow_rt.engines.manifest import MANIFEST_NAME
from anyflow_rt.engines.nvml import GpuMeter, open_nvml
from anyflow_rt.engines.tensorrt.record import EngineFacts
from anyflow_rt.engines.tensorrt.residency import RESERVE, choose_residency, expected_working, fitting_residency, needed
from anyflow_rt.engines.tensorrt.runtime_cache import RuntimeCache
from anyflow_rt.errors import EngineError, UsageError

torch = pytest.importorskip("torch")

from anyflow_rt.engines.tensorrt.buffers import Buffers  # noqa: E402 - it needs torch
from anyflow_rt.engines.tensorrt.contexts import Contexts  # noqa: E402
from anyflow_rt.engines.tensorrt.memory import naming_mends  # noqa: E402

GB = 10**9
SHAPE, FLOAT = (1, 3, 4), torch.float32


def test_the_state_of_a_run_goes_to_and_fro_between_two_places() -> None:
    buffers = Buffers("cpu")
    state = np.ones(SHAPE, np.float32)
    places = []
    for _ in range(6):
        read = buffers.input("latents", state, FLOAT)
        state = buffers.output("z_r", SHAPE, FLOAT)
        assert read.data_ptr() != state.data_ptr(), "nothing is written where the jump still reads"
        state.copy_(read + 1)
        places.append((read.data_ptr(), state.data_ptr()))
    assert (to_host(state) == 7).all()
    assert len(set(places[1:])) == 2 and places[1] == places[3] == places[5]


def test_what_a_caller_keeps_is_not_overwritten() -> None:
    buffers = Buffers("cpu")
    first = buffers.output("z_r", SHAPE, FLOAT).fill_(1)
    view = first[:, 1:]
    del first
    for number in range(2, 5):
        buffers.output("z_r", SHAPE, FLOAT).fill_(number)
    assert (view == 1).all()
    place = view.data_ptr() - view.storage_offset() * 4
    del view
    found = {buffers.output("z_r", SHAPE, FLOAT).data_ptr() for _ in range(3)}
    assert place in found and len(found) <= 2
    assert buffers.output("z_r", (2, 2), FLOAT).shape == (2, 2), "another size is another place"


def test_arrays_are_uploaded_when_they_may_have_changed() -> None:
    buffers = Buffers("cpu")
    array = np.zeros(SHAPE, np.float32)
    first = buffers.input("interval", array, FLOAT)
    array += 1
    again = buffers.input("interval", array, FLOAT)
    assert again.data_ptr() == first.data_ptr() and (again == 1).all()
    table = np.full(SHAPE, 5, np.float32)
    table.flags.writeable = False
    kept = buffers.input("rope_cos", table, FLOAT)
    kept.fill_(9)  # to see whether it is written again
    assert (buffers.input("rope_cos", table, FLOAT) == 9).all()
    other = table.copy()
    assert (buffers.input("rope_cos", other, FLOAT) == 5).all()
    part = table[:, 1:]
    buffers.input("rope_cos", part, FLOAT).fill_(9)
    assert (buffers.input("rope_cos", part, FLOAT) == 9).all(), "what nobody can change is uploaded once, in part too"
    view = array[:, :2]
    view.flags.writeable = False
    buffers.input("rope_sin", view, FLOAT)
    array += 1
    assert (buffers.input("rope_sin", view, FLOAT) == 2).all(), "read-only, but of memory that is not"


def test_bits_of_bfloat16_both_ways() -> None:
    bits = np.array([[0x3F80, 0xC000]], np.uint16)
    tensor = Buffers("cpu").input("cross_key", bits, torch.bfloat16)
    assert tensor.tolist() == [[1.0, -2.0]]
    assert np.array_equal(to_host(tensor), bits) and to_host(bits) is bits


class Compiled:
    """What a runtime cache of TensorRT for RTX is to ``RuntimeCache``: bytes that begin with a mark, and grow."""

    def __init__(self) -> None:
        self.held = b"mark"

    def create_runtime_cache(self) -> Compiled:
        return self

    def serialize(self) -> bytes:
        return self.held

    def deserialize(self, stored: bytes) -> bool:
        if known := stored.startswith(b"mark"):
            self.held = stored
        return known


def test_compiled_kernels_are_kept_once_there_are_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "cache" / "denoiser.runtime"
    first = Compiled()
    first.held += b" one"
    RuntimeCache(first, file, "denoiser").keep()
    assert file.read_bytes() == b"mark one"
    second = Compiled()
    cache, written = RuntimeCache(second, file, "denoiser"), file.stat().st_mtime_ns
    cache.keep()
    assert file.stat().st_mtime_ns == written, "nothing was added"
    second.held += b" two"
    cache.keep()
    assert file.read_bytes() == b"mark one two"
    file.write_bytes(b"damaged, and longer than what comes")
    RuntimeCache(Compiled(), file, "denoiser").keep()
    assert file.read_bytes() == b"mark" and "cannot be read: the kernels of denoiser" in caplog.text
    RuntimeCache(Compiled(), None, "denoiser").keep()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch can use a GPU here")
def test_a_pytorch_without_cuda_is_said() -> None:
    with pytest.raises(EngineError, match=r"need a PyTorch that can use the GPU, and .*, which is installed, cannot"):
        fitting_residency(PATH, None, "resident")


def test_a_full_gpu_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(
            EngineError, match=r"denoiser: the GPU's memory is full \(CUDA out of memory\); close other prog"
        ),
        naming_mends("denoiser", tmp_path / "denoiser.engine"),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nmore")


class Full:
    """A tensor on a GPU that has no memory left."""

    def new_zeros(self, size: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    def clone(self) -> None:
        self.new_zeros(1)


def test_a_gpu_too_full_for_what_chunks_leave_is_said() -> None:
    said = r"earlier chunks: the GPU's memory is full \(.* 2 GiB\); make fewer frames \(--num-frames\), or have less "
    for ask in (lambda: zeros_beside(Full(), 9), lambda: copied(Full())):
        with pytest.raises(EngineError, match=said):
            ask()


def test_one_graph_is_captured_at_a_time() -> None:
    """Whatever lane: PyTorch waits for the whole GPU before it captures, and no other capture may be under way then."""
    under_way: list[int] = []

    @contextmanager
    def graph(*_: object, **__: object) -> Iterator[None]:
        under_way.append(threading.get_ident())
        time.sleep(0.02)
        assert len(under_way) == 1
        yield
        under_way.clear()

    def capture() -> object:
        contexts = object.__new__(Contexts)
        contexts._torch = SimpleNamespace(cuda=SimpleNamespace(CUDAGraph=object, graph=graph))
        contexts.stream = SimpleNamespace(synchronize=lambda: None, cuda_stream=0)
        return contexts._captured(SimpleNamespace(execute_async_v3=lambda stream: True))

    with ThreadPoolExecutor(2) as pool:
        assert all(each.result() is not None for each in [pool.submit(capture) for _ in range(4)])


def test_without_a_gpu_nobody_is_asked() -> None:
    with open_nvml() as nvml:
        if nvml is not None:
            pytest.skip("here is a GPU's driver")
    meter = GpuMeter()
    assert meter.read() is None
    meter.close()


def facts(streams: bool = False) -> EngineFacts:
    """A text encoder of 11 GB, a denoiser of 3 and a decoder that works in 6."""

    def part(weights: float, working: float, ports: float) -> dict[str, int | None]:
        sizes = {"weights": weights, "working": working, "ports": ports, "bytes": weights}
        return {name: int(value * GB) for name, value in sizes.items()}

    components = {
        "text_encoder": part(11, 0.5, 0),
        "conditioner": part(0.3, 0.1, 0.1),
        "time_embedder": part(0.1, 0.01, 0),
        "denoiser": part(3, 2, 0.2),
        "vae_decoder_first": part(0.1, 3, 1),
        "vae_decoder_next": part(0.1, 6, 2),
    }
    return EngineFacts("tensorrt_rtx", "1.7.1", "sm_89", "bf16", {"weight_streaming": streams}, components)


PATH = Path("bundle/engines/sm_89/tensorrt_rtx-bf16-81x480x832/denoiser.engine")


def test_what_a_run_needs() -> None:
    assert needed(facts(), "resident") == pytest.approx(14.6 * GB + 6 * GB + 3.3 * GB, rel=1e-6)
    assert needed(facts(), "sequential") == pytest.approx(11.3 * GB + 0.5 * GB + 0.1 * GB, rel=1e-6)
    assert needed(facts(), "streaming") == pytest.approx(9 * GB, rel=1e-6), "decoding, without its weights"
    assert expected_working(facts(), "denoiser", "resident") == 6 * GB
    assert expected_working(facts(), "denoiser", "sequential") == 2 * GB
    untold = facts()
    untold.components["denoiser"].update(weights=None, working=None)
    assert expected_working(untold, "denoiser", "sequential") == 0.01 * GB
    assert needed(untold, "resident") == needed(facts(), "resident"), "its file says what its weights are"


def test_an_encoder_is_a_stage_of_its_own() -> None:
    before = facts()
    names = ("vae_encoder_first", "vae_encoder_next")
    parts = {name: {"weights": GB, "working": 7 * GB, "ports": GB, "bytes": GB} for name in names}
    with_encoder = replace(before, components={**before.components, **parts})
    assert needed(with_encoder, "sequential") == pytest.approx(needed(before, "sequential"), rel=1e-6), (
        "11 GB, text's 12"
    )
    assert needed(with_encoder, "resident") == needed(before, "resident") + 4 * GB + 1 * GB
    assert expected_working(with_encoder, "vae_encoder_next", "sequential") == 7 * GB
    assert expected_working(with_encoder, "denoiser", "sequential") == 2 * GB


def test_a_causal_decoder_works_beside_the_denoiser() -> None:
    """In memory of its own, and open while the denoiser is, whatever the residency."""
    before = facts()
    writer = {"weights": 3 * GB, "working": GB, "ports": GB, "bytes": 3 * GB}
    causal = replace(before, components={**before.components, "cache_writer": writer})
    jump, decode = (3.1 + 3 + 2 + 0.2 + 1) * GB, (0.2 + 6 + 3) * GB
    assert needed(causal, "sequential") == pytest.approx(jump + decode, rel=1e-6)
    assert needed(causal, "resident") == pytest.approx(needed(before, "resident") + (4 + 2) * GB, rel=1e-6)
    for residency, least in (("resident", 2 * GB), ("sequential", 2 * GB)):
        assert expected_working(causal, "denoiser", residency) == least
        assert expected_working(causal, "vae_decoder_first", residency) == 6 * GB


def test_a_guided_video_has_caches_for_each_prompt() -> None:
    """Keys and values of half precision: in one piece, and as chunks were written; those of the prompt once."""
    plain = facts()
    cross, cached = (2, 1, 4, 5, 8), (2, 1, 4, 100, 8)
    shapes = {"cross_key": cross, "cross_value": cross, "cache_key": cached, "cache_value": cached}
    denoiser = {**plain.components["denoiser"], "profiles": [{"usual": {}, "largest": shapes}]}
    writer = {**denoiser, "weights": 0, "working": 0, "ports": 0}
    causal = replace(plain, components={**plain.components, "denoiser": denoiser, "cache_writer": writer})
    own = 2 * 2 * 2 * 4 * 8 * (5 + 2 * 100)
    for residency in ("resident", "sequential", "streaming"):
        assert needed(causal, residency, prompts=2) == needed(causal, residency) + own
    free = needed(causal, "sequential") + RESERVE
    usual = {"free": free, "total": free, "asked": None, "usual": "resident"}
    assert choose_residency(causal, PATH, **usual) == "sequential"
    with pytest.raises(EngineError, match=r"smaller size, or leave out --guidance-scale, or "):
        choose_residency(causal, PATH, **usual, prompts=2)


@pytest.mark.parametrize(
    "free, streams, asked, usual, expected",
    [
        (32, False, None, "resident", "resident"),
        (20, False, None, "resident", "sequential"),
        (32, False, None, "sequential", "sequential"),
        (20, False, "sequential", "resident", "sequential"),
        (10, True, None, "resident", "streaming"),
        (32, True, "streaming", "resident", "streaming"),
    ],
)
def test_the_first_residency_that_fits(free: int, streams: bool, asked: str | None, usual: str, expected: str) -> None:
    found = choose_residency(facts(streams), PATH, free=free * GB, total=32 * GB, asked=asked, usual=usual)
    assert found == expected


@pytest.mark.parametrize(
    "free, streams, asked, words",
    [
        (20, False, "resident", r"needs 23\.9 GB of the GPU at once \(text 11\.9 GB, jump .*, or take --residency seq"),
        (
            8,
            False,
            None,
            r"has 8\.0 of 32\.0 GB free; close other programs .*, or make it with .* --weight-streaming --force$",
        ),
        (8, True, None, r"81x480x832 needs 9\.0 GB .* build for a smaller size$"),
    ],
)
def test_too_little_memory_is_said_before_anything_is_opened(
    free: int, streams: bool, asked: str | None, words: str, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / MANIFEST_NAME).touch()
    with pytest.raises(EngineError, match=words):
        choose_residency(facts(streams), tmp_path / PATH, free=free * GB, total=32 * GB, asked=asked, usual="resident")


def test_streaming_takes_an_engine_that_was_built_for_it() -> None:
    with pytest.raises(UsageError, match="built without weight streaming; leave out --residency streaming, or "):
        choose_residency(facts(), PATH, free=99 * GB, total=99 * GB, asked="streaming", usual="resident")
    assert RESERVE < GB
