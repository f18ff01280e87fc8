"""What the causal shapes checkpoint is measured for: speed, caches, streams, deadlines, and clips that go on."""
