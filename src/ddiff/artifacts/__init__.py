"""Files that run without ddiff, or hold weights for other libraries; ddiff samples from all."""

from ddiff.artifacts.formats import Aoti, Pt2, TorchScript
from ddiff.artifacts.onnx import Onnx
from ddiff.artifacts.tensorrt import TensorRT
from ddiff.artifacts.weights import Diffusers, Safetensors

__all__ = ["Aoti", "Diffusers", "Onnx", "Pt2", "Safetensors", "TensorRT", "TorchScript"]
