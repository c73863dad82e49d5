"""Small nets and how they sample, on the GPU where there is one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.backends import Backend
from ddiff.diffusion import ClassifierFree, Interval, Plan, objectives, schedules, solvers
from ddiff.nets import DiT, Sinusoidal, UNet
from ddiff.sampling.generation import Generation
from ddiff.system.precision import Precision

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PLANS: dict[str, Callable[..., Plan]] = {
    "ddpm": solvers.ddpm,
    "ddim": solvers.ddim,
    "ddim_noisy": lambda schedule, num_steps: solvers.ddim(schedule, num_steps, eta=0.7),
    "dpmpp_2m": solvers.dpmpp_2m,
    "dpmpp_2m_sde": solvers.dpmpp_2m_sde,
    "heun": lambda schedule, num_steps: solvers.heun(schedule, (num_steps + 1) // 2),
    "unipc": solvers.unipc,
    "few": lambda schedule, num_steps: solvers.few(schedule, 16),
}
SCHEDULES = {"heun": schedules.flow(200)}
STEPS = 20
OBJECTIVES = {"ddpm": objectives.Eps(), "ddim": objectives.V(), "heun": objectives.Flow()}
GUIDANCE = {"heun": Interval}


def small_net(kind: str, shortcuts: bool = False) -> nn.Module:
    """A small net without zero layers, and tame: errors do not grow from step to step."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_blocks": 1, "groups": 8, "head_dim": 16}
    told = Sinusoidal(16, shortcuts=shortcuts)
    if kind == "dit":
        net = DiT((3, 16, 16), 5, 32, 2, 16, 4, told)
    elif kind == "2D":
        net = UNet((3, 16, 16), 5, [32, 48], told, attention=[8], **options)
        net = net.to(memory_format=torch.channels_last)
    else:
        net = UNet((1, 16, 16, 16), None, [32, 32], told, patch_size=2, **options)
        net = net.to(memory_format=torch.channels_last_3d)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.01)
    return net.to(DEVICE).eval().requires_grad_(False)


def generation(kind: str, plan: str, backend: Backend, **options: Any) -> Generation:
    net = small_net(kind, shortcuts=plan == "few")
    return Generation(
        net=net,
        shape=net.shape,
        num_classes=None if kind == "3D" else 5,
        objective=OBJECTIVES.get(plan, objectives.X0()),
        plan=PLANS[plan](SCHEDULES.get(plan, schedules.cosine(200)), num_steps=STEPS),
        backend=backend,
        **{
            "precision": Precision("float32"),
            "seed": 11,
            "guidance": GUIDANCE.get(plan, ClassifierFree)(0.0 if kind == "3D" else 1.5),
            **options,
        },
    )


def labels(kind: str, n: int) -> Tensor | None:
    return None if kind == "3D" else torch.arange(n) % 5


def psnr(a: Tensor, b: Tensor) -> float:
    """In dB; samples lie in [-1, 1]."""
    return (10 * torch.log10(4 / (a - b).square().mean())).item()
