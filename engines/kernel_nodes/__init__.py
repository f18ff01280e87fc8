"""Parts of a typed denoiser -> nodes of the domain ``anyflow``, each of them one kernel of ours in TensorRT's engine."""
