"""Parameters and FLOPs of the nets, counted without computing: `measure.py` starts it.

    python experiments/peers/count_nets.py '{"<net>": [1, 64, 64, 64]}'

Prints JSON. A multiplication and an addition are two FLOPs; a convolution counts as it is written,
whatever algorithm executes it.
"""

import json
import sys
from collections.abc import Sequence

import torch
from lineup import PEER, Row
from peer_worker import composed
from torch.utils.flop_counter import FlopCounterMode

from ddiff.build import build_net


def counted(net: str, shape: Sequence[int]) -> dict[str, int]:
    """Parameters, and FLOPs of a forward of one sample."""
    cfg = composed(Row("", PEER, net, 1, "fp32"), tuple(shape))
    with torch.device("meta"), FlopCounterMode(display=False) as flops, torch.no_grad():
        built = build_net(cfg.net).eval()
        built(torch.empty(1, *shape), torch.zeros(1, dtype=torch.long), None)
    count = sum(p.numel() for p in built.parameters())
    return {"parameters": count, "flops": flops.get_total_flops()}


if __name__ == "__main__":
    asked: dict[str, list[int]] = json.loads(sys.argv[1])
    print(json.dumps({net: counted(net, shape) for net, shape in asked.items()}))
