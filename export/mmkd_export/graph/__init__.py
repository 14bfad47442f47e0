"""From PyTorch to ONNX graphs; their layers and magnitudes."""
