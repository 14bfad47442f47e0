"""From PyTorch to ONNX graphs, and what is known of a graph."""
