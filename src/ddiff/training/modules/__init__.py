from ddiff.training.modules.autoencoder import Autoencoder
from ddiff.training.modules.classifier import Classifier
from ddiff.training.modules.ddpm import DDPM, ConditionalDDPM, VoxelDDPM
from ddiff.training.modules.learner import Learner

__all__ = ["DDPM", "Autoencoder", "Classifier", "ConditionalDDPM", "Learner", "VoxelDDPM"]
