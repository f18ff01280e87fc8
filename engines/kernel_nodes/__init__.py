"""Parts of a typed denoiser -> nodes of the domain ``anyflow``, each of which is one kernel of ours in an engine."""
