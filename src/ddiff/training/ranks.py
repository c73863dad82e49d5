"""Ranks: the processes that train together, who started them, and what they tell each other.

Lightning starts the others from rank 0 (trainer.devices=2), or a launcher starts all of them alike
(torchrun, srun). Then each composes the config by itself, and only rank 0's directory counts.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar, NoReturn

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError, DdiffError

OWN = "DDIFF_FROM_RANK_ZERO_"  # variables for the processes that Lightning starts from rank 0
START = timedelta(minutes=5)  # between the starts of two ranks
PATIENCE = timedelta(minutes=30)  # for rank 0, which may have to download the data first
GONE = ("gloo", "nccl", "tcpstore", "connection")  # in errors of a collective that lost a rank


def launched() -> int | None:
    """Number of processes that a launcher (torchrun, srun) started alike; None without one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    # of a step of srun; a batch script alone has no such number
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if "SLURM_STEP_NUM_TASKS" in os.environ else None


def rank() -> int:
    """Rank of this process. Without a launcher it is 0, or the number on its machine that Lightning
    gave to a process which it started."""
    if (launched() or 1) == 1:
        return int(os.environ.get("LOCAL_RANK", "0")) or int(os.environ.get("NODE_RANK", "0"))
    return int(os.environ["RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_PROCID"])


def check_launch(trainer: DictConfig) -> None:
    """Raise ConfigError if a launcher started another number of processes than the trainer wants:
    each would then train alone, in the same directory."""
    started, devices = launched(), trainer.get("devices", 1)
    if devices == "auto" and device_for(trainer.accelerator).type == "cpu":
        devices = 1
    if not started or not isinstance(devices, int) or devices < 0:
        return
    wanted = devices * trainer.get("num_nodes", 1)
    if wanted != started and not (started == 1 and wanted > 1):
        raise ConfigError(
            f"trainer.devices: {started} processes were started, and trainer.devices={devices} x "
            f"trainer.num_nodes={trainer.get('num_nodes', 1)} are {wanted}; for {started} on one "
            f"machine say trainer.devices={started} trainer.strategy=ddp"
        )


class FromFirst:
    """Answers that rank 0 gives, and the others wait for, before the ranks are connected."""

    _store: ClassVar[Any] = None  # as long as the process lives, for another rank may be late
    _answers: ClassVar[int] = 0  # in that store

    def __init__(self) -> None:
        self._asked = 0

    def ask(self, answer: Callable[[], str]) -> str:
        """Return rank 0's answer on every rank. All ranks ask the same questions in turn."""
        self._asked += 1
        return self._by_store(answer) if (launched() or 1) > 1 else self._by_environment(answer)

    def _by_environment(self, answer: Callable[[], str]) -> str:
        name = f"{OWN}{self._asked}"
        if rank() == 0 or name not in os.environ:
            os.environ[name] = answer()
        return os.environ[name]

    def _by_store(self, answer: Callable[[], str]) -> str:
        FromFirst._answers += 1
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        name = f"ddiff/{restart}/{FromFirst._answers}"
        try:
            if FromFirst._store is None:
                FromFirst._store = _connected()
            if rank() > 0:
                return FromFirst._store.get(name).decode()
        except RuntimeError as error:
            raise DdiffError(
                f"rank {rank()} ends, for it cannot reach rank 0, which may have said why"
            ) from error
        found = answer()
        FromFirst._store.set(name, found)
        return found


def _connected() -> Any:
    """The store of torchrun's agent. Without it rank 0 serves one, at the port after that where the
    ranks meet to train."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if "TORCHELASTIC_RUN_ID" in os.environ:
        from lightning.fabric.plugins.environments.torchelastic import (
            TorchElasticEnvironment as Launch,
        )
    else:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment as Launch

    launch, served = Launch(), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        launch.main_address,
        launch.main_port + (not served),
        is_master=rank() == 0 and not served,
        timeout=START,
        wait_for_workers=False,
    )
    store.set_timeout(PATIENCE)
    return store


class Agreement:
    """Messages between ranks that train, on CPUs, so that no GPU is waited for.

    Every method is collective: all ranks call it at the same moment. 0.1 ms a call.
    """

    def __init__(self) -> None:
        self._group: Any = None

    @staticmethod
    def several() -> bool:
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def largest(self, number: int) -> int:
        """Return the largest number of all ranks."""
        if not self.several():
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, self._ranks())
        return int(value)

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all ranks in their order."""
        if not self.several():
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, self._ranks())
        return values

    def _ranks(self) -> Any:
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group


def end_all(error: DdiffError) -> NoReturn:
    """End this rank for a reason that all ranks know: rank 0 raises it, the others leave silently.

    Their status is 0: a launcher that sees another one may kill rank 0 before it has said why.
    """
    if Agreement.several() and dist.get_rank() > 0:
        raise SystemExit(0)
    raise error


def lost(error: BaseException) -> bool:
    """Return True if a collective failed because another rank is not there any more."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in GONE)
