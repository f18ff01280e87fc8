"""Hub ids: only what is needed is downloaded, the cache serves offline, and failures name the id and the mend.

huggingface_hub reads its environment at import, so each case is a process of its own against a hub on localhost.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.checkpoints import make_checkpoint
from support.hub import COMMIT, serve_hub

PROGRAM = """
import json, sys
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.errors import AnyflowError
try:
    found = load_checkpoint(sys.argv[1], revision=sys.argv[2] or None)
    print(json.dumps({"id": found.id, "revision": found.revision, "hash": found.content_hash()}))
except AnyflowError as error:
    print(json.dumps({"error": str(error)}))
"""


def load(home, url: str, identifier: str, revision: str = "", **environment: str) -> dict[str, str]:
    """What ``load_checkpoint`` gives in a fresh process: id, revision and hash, or its error."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, identifier, revision],
        env={**kept, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Repositories: good, the same beside pickles and variants, variants only, and one of another kind."""
    root = tmp_path_factory.mktemp("hub")
    plain = make_checkpoint(root / "plain", seed=1)
    (plain / "README.md").write_text("a model card")
    crowded = shutil.copytree(plain, root / "crowded")
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (crowded / "transformer" / name).write_bytes(b"not to be downloaded")
    variant = make_checkpoint(root / "variant", seed=1, variant="fp16", max_shard_size="30KB")
    other = shutil.copytree(plain, root / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanPipeline"}))
    repositories = {"team/plain": plain, "team/crowded": crowded, "team/variant": variant, "team/other": other}
    with serve_hub(repositories) as served:
        yield served


@pytest.fixture
def downloads(hub):
    hub.downloads.clear()
    return hub.downloads


def test_only_what_is_needed_is_downloaded(hub, downloads, tmp_path):
    plain = load(tmp_path, hub.url, "team/plain")
    assert plain["id"] == "team/plain" and plain["revision"] == COMMIT
    assert sorted(set(downloads)) == sorted(
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    )
    downloads.clear()
    crowded = load(tmp_path, hub.url, "team/crowded")
    assert crowded["hash"] == plain["hash"]
    assert not [name for name in downloads if "fp16" in name or name.endswith(".bin")]
    offline = load(tmp_path, hub.url, "team/plain", HF_HUB_OFFLINE="1")
    assert offline == plain


def test_variants_are_downloaded_where_there_is_nothing_else(hub, tmp_path):
    assert "hash" in load(tmp_path, hub.url, "team/variant")


def test_an_unsupported_checkpoint_costs_no_weights(hub, downloads, tmp_path):
    assert "supported: AnyFlowPipeline" in load(tmp_path, hub.url, "team/other")["error"]
    assert not [name for name in downloads if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("identifier", "revision", "environment", "said"),
    [
        ("team/nothing", "", {}, "no such repository"),
        ("team/plain", "v9", {}, "at revision 'v9' from the hub: the repository has no such revision"),
        ("team/plain", "", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("team/plain", "", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub cannot be reached"),
        ("team/pla--in", "", {}, "no valid hub id"),
    ],
)
def test_failures_name_the_id_and_the_mend(hub, tmp_path, identifier, revision, environment, said):
    message = load(tmp_path, hub.url, identifier, revision, **environment)["error"]
    assert said in message and identifier in message and "\n" not in message
