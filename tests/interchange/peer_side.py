"""The other side of the comparison: runs in the environment where diffusers and MONAI are.

Reads one JSON object from the command line: {"do": ..., "folder": ...}. Inputs and outputs are
files of numpy, so that both sides share nothing but files.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

STEPS = 20
TRAILING = {"timestep_spacing": "trailing"}
NETS = {
    "cifar": {
        "sample_size": 32,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "defaults": {
        "sample_size": (16, 24),
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
    },
    "scaled": {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 8,
        "attn_norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_dim": 96,
    },
}
NETS["fixture"] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "downsample_padding": 0,
    "norm_num_groups": 4,
    "norm_eps": 1e-6,
}
NETS["fixture_v"] = {  # another kind of everything that ddiff can express
    **NETS["fixture"],
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 4,
    "time_embedding_dim": 24,
    "downsample_padding": 1,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
SCHEDULERS = {
    "cifar": ("DDPMScheduler", {"variance_type": "fixed_large"}),
    "defaults": ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085,
                                   "beta_end": 0.012, "steps_offset": 1}),
    "fixture": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "fixture_v": ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085,
                                    "beta_end": 0.012, "steps_offset": 1,
                                    "prediction_type": "v_prediction"}),
    "scaled": ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2",
                                 "prediction_type": "v_prediction",
                                 "timestep_spacing": "trailing"}),
}  # fmt: skip
VOLUMES = {  # as experiments/peers measures it, and as small as it can be
    "volumes": {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "channels": [32, 64, 128],
        "attention_levels": [False, False, False],
        "num_res_blocks": 1,
        "num_head_channels": 32,
    },
}
VOLUMES["fixture"] = {
    **VOLUMES["volumes"],
    "channels": [4, 8],
    "attention_levels": [False, True],
    "num_head_channels": [4, 4],
    "norm_num_groups": 4,
}


TEN, NINE = {"num_inference_steps": 10}, {"num_inference_steps": 9}
EVEN = np.linspace(1, 0.1, 10).tolist()  # what the pipelines of Flux and SD3 ask for in 10 steps
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
STEPPED = {  # scheduler, its options, and what set_timesteps is given
    "euler": ("FlowMatchEulerDiscreteScheduler", {}, TEN),
    "euler of a pipeline": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"sigmas": EVEN}),
    "euler shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, TEN),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}, TEN),
    "heun shifted": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, TEN),
    **{f"unipc {kind}": ("UniPCMultistepScheduler", {"prediction_type": kind, **TRAILING}, TEN)
       for kind in ("epsilon", "sample", "v_prediction")},
    "unipc flow": ("UniPCMultistepScheduler", FLOW, NINE),
    "edm": ("EDMEulerScheduler", {}, TEN),
}  # fmt: skip


def woken(net: nn.Module) -> nn.Module:
    """The net with no layer left at zero."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    return net.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def save_folder(folder: Path, name: str) -> None:
    """A pipeline with random weights, and what it computes."""
    import diffusers  # pyright: ignore[reportMissingImports]

    kind, options = SCHEDULERS[name]
    net = woken(diffusers.UNet2DModel(**NETS[name]))
    scheduler = getattr(diffusers, kind)(**options)
    pipeline = diffusers.DDPMPipeline if kind == "DDPMScheduler" else diffusers.DDIMPipeline
    pipeline(unet=net, scheduler=scheduler).save_pretrained(folder)
    record(net, scheduler, folder)


def record(net: Any, scheduler: Any, folder: Path) -> None:
    """Predictions of a few inputs and samples of 20 steps of DDIM, from given noise."""
    import diffusers  # pyright: ignore[reportMissingImports]

    size = net.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    x, t = noise(2, net.config.in_channels, *sides), torch.tensor([0, 700])
    made = {"x": x, "t": t, "prediction": net(x, t).sample}
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(STEPS)
    made["times"] = ddim.timesteps
    for clipped in (True, False):
        sample = x
        for one in ddim.timesteps:
            prediction = net(sample, one).sample
            sample = ddim.step(
                prediction, one, sample, use_clipped_model_output=clipped
            ).prev_sample
        made["samples" if clipped else "unclipped"] = sample
    np.savez(folder / "recorded.npz", **{name: value.numpy() for name, value in made.items()})


def open_folder(folder: Path) -> None:
    """A folder of ddiff by `from_pretrained`, and what it computes."""
    import diffusers  # pyright: ignore[reportMissingImports]

    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipeline = getattr(diffusers, kind).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape[0] == 2
    record(pipeline.unet, pipeline.scheduler, folder)


def save_bundle(folder: Path, name: str) -> None:
    """A bundle of MONAI with random weights, and what its net computes."""
    from monai.networks.nets import DiffusionModelUNet  # pyright: ignore[reportMissingImports]
    from safetensors.torch import save_file

    net = woken(DiffusionModelUNet(**VOLUMES[name]))
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    save_file(net.state_dict(), folder / "models" / "model.safetensors")
    config = {
        "spatial_dims": 3,
        "network_def": {
            "_target_": "DiffusionModelUNet",
            **VOLUMES[name],
            "spatial_dims": "@spatial_dims",
        },
        "noise_scheduler": {
            "_target_": "monai.networks.schedulers.DDIMScheduler",
            "num_train_timesteps": 1000,
            "schedule": "scaled_linear_beta",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "clip_sample": False,
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config, indent=2) + "\n")
    size = 8 if name == "fixture" else 16
    x, t = noise(2, 1, size, size, size), torch.tensor([3, 900])
    made = {"x": x, "t": t, "prediction": net(x, timesteps=t)}
    np.savez(folder / "recorded.npz", **{name: value.numpy() for name, value in made.items()})


def mixture(abar: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """E[x_0 | x] of two points, -1 with probability 0.3 and 1.5 with 0.7: a net that is known."""
    points = torch.tensor([-1.0, 1.5], dtype=torch.float64)
    squares = (x.double()[..., None] - abar**0.5 * points) ** 2
    logits = torch.tensor([0.3, 0.7], dtype=torch.float64).log() - squares / (2 * (1 - abar))
    return (logits.softmax(-1) * points).sum(-1).to(x)


def step_schedulers(folder: Path) -> None:
    """States after each step of diffusers' schedulers, of unit variance, and their noise levels."""
    import diffusers  # pyright: ignore[reportMissingImports]

    made = {"noise": noise(2, 1, 4, 4)}
    for name, (kind, options, given) in STEPPED.items():
        scheduler = getattr(diffusers, kind)(**options)
        scheduler.set_timesteps(**given)
        sigmas = scheduler.sigmas.double()
        signal, scale = torch.ones_like(sigmas), (1 + sigmas**2).sqrt()
        if "Flow" in kind or "flow" in name:
            signal, scale = 1 - sigmas, ((1 - sigmas) ** 2 + sigmas**2).sqrt()
        elif "UniPC" in kind:
            signal, sigmas, scale = 1 / scale, sigmas / scale, torch.ones_like(scale)
        x, states = (made["noise"] * scale[0]).float(), []
        for i, t in enumerate(scheduler.timesteps):
            x_0 = mixture((signal[i] / scale[i]) ** 2, (x / scale[i]).float())
            eps = (x - signal[i] * x_0) / sigmas[i]
            outputs = {"epsilon": eps, "sample": x_0,
                       "v_prediction": signal[i] * eps - sigmas[i] * x_0}  # fmt: skip
            output = outputs.get(scheduler.config.get("prediction_type"), eps - x_0)
            if kind.startswith("EDM"):
                scheduler.scale_model_input(x, t)
                c = scheduler.precondition_outputs
                output = (x_0 - c(x, 0 * x, sigmas[i])) / c(0.0, 1.0, sigmas[i])
            x = scheduler.step(output.float(), t, x).prev_sample
            states.append(x / scale[i + 1])
        made[f"{name} states"] = torch.stack(states)
        made[f"{name} noise over signal"] = sigmas / signal
    folder.mkdir()
    np.savez(folder / "recorded.npz", **{name: value.numpy() for name, value in made.items()})


if __name__ == "__main__":
    torch.set_grad_enabled(False)  # here, for tests import this module too
    order = json.loads(sys.argv[1])
    work = {"save": save_folder, "bundle": save_bundle}
    if order["do"] == "open":
        open_folder(Path(order["folder"]))
    elif order["do"] == "schedulers":
        step_schedulers(Path(order["folder"]))
    else:
        work[order["do"]](Path(order["folder"]), order.get("name", ""))
