"""TensorRT: the backend, and how engines are built and cached; `mmkd-export --target trt` builds by the same code."""
