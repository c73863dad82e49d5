"""Diffusion of occupancy volumes."""

from torch import Tensor

from ddiff.training.modules.ddpm import DDPM


class VoxelDDPM(DDPM):
    """Unconditional volumes, inside +1 and outside -1."""

    dims = 3

    def validation_metrics(self, x_0: Tensor, x_0_hat: Tensor) -> dict[str, Tensor]:
        """Intersection over union of the solid and of what one denoising step makes of it."""
        true, guess = (x_0 > 0).flatten(1), (x_0_hat > 0).flatten(1)
        union = (true | guess).sum(1).clamp(min=1)
        return {"val/iou": ((true & guess).sum(1) / union).mean()}
