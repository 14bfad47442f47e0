"""TensorRT: the backend, and building and caching engines, also for `mmkd-export --target trt`."""
