from ddiff.training.modules.classifier import Classifier
from ddiff.training.modules.conditional import ConditionalDDPM
from ddiff.training.modules.ddpm import DDPM
from ddiff.training.modules.learner import Learner
from ddiff.training.modules.voxel import VoxelDDPM

__all__ = ["DDPM", "Classifier", "ConditionalDDPM", "Learner", "VoxelDDPM"]
