"""The peers' nets behind ddiff's interface, (x [B, C, *S], t [B], y) -> [B, C, *S].

Each library is imported when its net is built, so that either can be measured without the other.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class Diffusers(nn.Module):
    """`UNet2DModel` with the configuration of google/ddpm-cifar10-32."""

    def __init__(self, shape: Sequence[int], num_classes: int | None) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # pyright: ignore[reportMissingImports]

        self.net = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, t, return_dict=False)[0]


class Monai(nn.Module):
    """`DiffusionModelUNet` with attention in the middle alone, which it always has."""

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None,
        channels: Sequence[int],
        num_blocks: int,
        head_dim: int,
        fused_attention: bool,
    ) -> None:
        super().__init__()
        from monai.networks import nets  # pyright: ignore[reportMissingImports]

        self.net = nets.DiffusionModelUNet(
            spatial_dims=len(shape) - 1,
            in_channels=shape[0],
            out_channels=shape[0],
            channels=tuple(channels),
            attention_levels=(False,) * len(channels),
            num_res_blocks=num_blocks,
            num_head_channels=head_dim,
            use_flash_attention=fused_attention,
            use_combined_linear=fused_attention,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, timesteps=t)
