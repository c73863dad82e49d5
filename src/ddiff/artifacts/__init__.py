"""Files that run without ddiff, and that ddiff samples from."""

from ddiff.artifacts.formats import Aoti, Pt2, TensorRT, TorchScript
from ddiff.artifacts.onnx import Onnx

__all__ = ["Aoti", "Onnx", "Pt2", "TensorRT", "TorchScript"]
