"""Files that run without ddiff, and that ddiff samples from."""

from ddiff.artifacts.formats import Aoti, Pt2, TorchScript
from ddiff.artifacts.onnx import Onnx
from ddiff.artifacts.tensorrt import TensorRT

__all__ = ["Aoti", "Onnx", "Pt2", "TensorRT", "TorchScript"]
