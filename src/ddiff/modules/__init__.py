from ddiff.modules.classifier import Classifier
from ddiff.modules.conditional import ConditionalDDPM
from ddiff.modules.ddpm import DDPM
from ddiff.modules.learner import Learner
from ddiff.modules.voxel import VoxelDDPM

__all__ = ["DDPM", "Classifier", "ConditionalDDPM", "Learner", "VoxelDDPM"]
