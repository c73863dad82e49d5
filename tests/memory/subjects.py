"""Small trainings, composed as from a command line."""

from typing import Any

import torch

from ddiff.build import build_precision
from ddiff.config.options import Train
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.data import Data
from ddiff.system.precision import Precision
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import Learner

CPU = torch.device("cpu")
SMALL = ("precision=fp32", "net.channels=[16,32]", "net.num_blocks=1", "net.groups=8")
IN_2D = ("experiment=digits_ddpm", *SMALL, "budget.batch_size=16")
IN_3D = ("data.size=16", "data.num=16", "data.num_val=4", *SMALL, "net.patch_size=1",
         "net.input_skip=false", "budget.batch_size=4")  # fmt: skip
ADAM = "optimizer=adamw"  # a tenth of Muon's operations
LARGE = (*IN_3D, ADAM, "data.size=64")  # activations are most of it; for what is only predicted


def built(*overrides: str, device: torch.device = CPU) -> tuple[Train, Data, Learner, Precision]:
    cfg = train_options(*overrides)
    data: Any = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, device)
    return cfg, data, build_module(cfg, precision), precision
