from ddiff.modules.conditional import ConditionalDDPM
from ddiff.modules.ddpm import DDPM
from ddiff.modules.voxel import VoxelDDPM

__all__ = ["DDPM", "ConditionalDDPM", "VoxelDDPM"]
