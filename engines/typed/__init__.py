"""Float32 ONNX graphs -> strongly typed ones: bf16 or fp16 where a tensor core is used, float32 where it matters."""
