"""Statistics of a sweep: pure and seeded, numbers in, frozen dataclasses out."""
