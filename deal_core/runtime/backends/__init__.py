"""What computes class scores at run time: PyTorch, ONNX Runtime or TensorRT, chosen by what the machine can do."""
