"""Residual + gate * branch, then LayerNorm, then modulation: every join of a transformer block in one pass."""
