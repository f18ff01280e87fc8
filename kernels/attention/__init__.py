"""Softmax attention without the matrix of scores, for video tokens and prompts, dense or chunk-causal."""
