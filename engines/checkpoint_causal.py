"""What a causal (FAR) checkpoint's transformer says of its chunks.

Chunks of latent frames are denoised one after another. The newest ``full_chunk_limit`` of them, the one in work
included, are seen at full resolution; those before are seen through ``far_patch_embedding``, whose patches are larger.
"""

from __future__ import annotations

from anyflow_rt.engines.architecture import CausalConfig, TransformerConfig
from anyflow_rt.engines.checkpoint_file import ConfigFile

CAUSAL_PIPELINES = ("AnyFlowFARPipeline", "FARWanAnyFlowPipeline")
"""diffusers' name and NVlabs' name of the causal pipeline."""

CAUSAL_TRANSFORMERS = ("AnyFlowFARTransformer3DModel", "FAR_Wan_Transformer3DModel")


def read_causal(config: ConfigFile, transformer: TransformerConfig) -> CausalConfig:
    """The keys of ``transformer/config.json`` that the causal path alone reads. Raises CheckpointError."""
    patch = transformer.patch_size[1]
    compressed = config.wholes("compressed_patch_size")
    if len(compressed) != 3 or compressed[0] != 1 or compressed[1] != compressed[2] or compressed[1] % patch:
        config.refuse("compressed_patch_size", f"supported: [1, q, q] with q a multiple of patch_size's {patch}")
    return CausalConfig(
        chunk_partition=config.wholes("chunk_partition"),
        # With 1 no chunk but the one in work is at full resolution, and the reference's cache pass has no frames left.
        full_chunk_limit=config.whole("full_chunk_limit", least=2),
        compressed_patch_size=(compressed[0], compressed[1], compressed[2]),
    )
