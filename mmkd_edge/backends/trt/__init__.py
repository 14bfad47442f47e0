"""TensorRT, also for `mmkd-export --target trt`."""
