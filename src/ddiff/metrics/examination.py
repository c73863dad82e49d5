"""How good a net in training is: its samples, drawn and measured now and then."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ddiff.config.options import Train
from ddiff.data import Data
from ddiff.metrics.evaluation import case_for, data_stacks, measured, suited
from ddiff.metrics.stack import Array, Stack
from ddiff.sampling.generation import Generation, labels_for
from ddiff.sampling.writing import sampled


class Examination:
    """Built before the training: what cannot be measured is said then."""

    def __init__(self, options: Train, data: Data) -> None:
        self.options = options
        drawn = options.evaluation
        self.y = labels_for(options.sampling.y, drawn.num_samples, options.net.num_classes)
        train, held_out = data_stacks(data, options.data)
        stand_in = Stack(train.source, "samples")
        case = case_for(
            options, drawn.cache, options.trainer.accelerator, stand_in, train, held_out, data
        )
        self.case = replace(case, make_extractor=cache(case.make_extractor))
        suited(options.metrics, self.case)

    def __call__(self, generation: Generation) -> dict[str, Any]:
        drawn = self.options.evaluation
        batches = sampled(generation, drawn.num_samples, drawn.batch_size, self.y)
        samples = np.concatenate([batch.cpu().numpy() for batch in batches])
        stack = Stack(Array(samples, Path("samples"), "signed", self.y), "samples")
        return measured(replace(self.case, samples=stack), self.options.metrics)
