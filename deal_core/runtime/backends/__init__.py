"""Back ends that compute class scores at run time: PyTorch, ONNX Runtime and TensorRT."""
