"""Metrics: what scores a video, or a set of videos, behind one small contract."""
