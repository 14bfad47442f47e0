"""A camera's student that sees nothing but how bright frames are, as a bundle, and videos for it."""

import cv2
import numpy as np
from onnx import TensorProto, helper

from mmkd_edge import ModalitySpec
from mmkd_edge.bundle.bundle import Golden
from tests.edge.conftest import bundle_parts, graph_bytes

LIPS = ModalitySpec(name="lips", kind="video", channels=("gray",), rate_hz=10.0, samples=4, height=8, width=12)
WEIGHTS, BIAS = np.array([[1.0, 0.0, -1.0]], np.float32) / 64, np.array([-2.0, 0.0, 2.0], np.float32)


def shares_of(level):
    """What the student of `level_model` answers for a mean level, computed without the runtime."""
    logits = level * WEIGHTS[0].astype(np.float64) + BIAS
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def level_model(modality):
    """An ONNX model: the mean brightness of frames that are there, then one linear layer and a softmax."""
    nodes = [
        helper.make_node("Cast", [modality.name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "pixels"], ["levels"], keepdims=0),
        helper.make_node("Mul", ["levels", f"{modality.name}_present"], ["seen"]),
        helper.make_node("ReduceMean", ["seen", "time"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    constants = {"pixels": np.array([2, 3]), "time": np.array([1]), "weights": WEIGHTS, "bias": BIAS}
    inputs = [
        helper.make_tensor_value_info(modality.name, TensorProto.UINT8, [1, *modality.shape]),
        helper.make_tensor_value_info(f"{modality.name}_present", TensorProto.FLOAT, [1, modality.samples, 1]),
    ]
    return graph_bytes(nodes, inputs, constants)


def write_lips(path):
    windows = np.random.default_rng(1).integers(0, 255, (4, *LIPS.shape), dtype=np.uint8)
    shares = np.array([shares_of(float(window.mean())) for window in windows])
    golden = Golden(
        windows=windows,
        labels=np.array([0, 1, 2, -1]),
        logits=np.array([float(window.mean()) * WEIGHTS[0] + BIAS for window in windows], np.float32),
        probabilities=shares.astype(np.float32),
        judge=np.array([True, False, True, False]),
        tolerance=1e-4,
    )
    return bundle_parts(LIPS, model=level_model(LIPS), golden=golden, name="lips").write(path)


def write_film(path, levels, *, rate_hz=10.0):
    """A lossless film of 24x16: a gray level in each frame, and black outside of (6, 4) to (18, 12)."""
    film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), rate_hz, (24, 16))
    assert film.isOpened()
    for level in levels:
        frame = np.zeros((16, 24, 3), np.uint8)
        frame[4:12, 6:18] = level
        film.write(frame)
    film.release()
