"""z_r = z_t - interval * u, from the head projection's tokens."""
