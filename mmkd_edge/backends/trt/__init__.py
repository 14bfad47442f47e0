"""TensorRT engines: how one is built, what it fits, where it is kept, and the CUDA calls around it.

The backend over them is `mmkd_edge.backends.trt.backend`; `mmkd-export --target trt` builds by the same code.
"""
