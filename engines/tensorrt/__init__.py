"""TensorRT engines. One family of modules serves both packages, which is passed in as ``trt``."""
