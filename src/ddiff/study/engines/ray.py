"""Jobs on a Ray cluster that is running already. Its machines share a file system."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from ddiff.study.engines.base import Ended, Job
from ddiff.study.engines.children import PATIENCE, TAKEN_AWAY, end, note, start
from ddiff.system.bounds import At, Filled
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError

LOOK = 10  # tenths of a second between two looks of a job whether it should stop


class Ray:
    """Jobs as tasks of a Ray cluster, in the current folder, which all its machines see.

    Ray starts a task where the cores, the GPUs and the other resources of a job are free. It does
    not repeat a task whose machine is lost: the caller submits the job again.
    """

    def __init__(
        self,
        address: Annotated[str, Filled()] = "auto",
        num_cpus: Annotated[int, At(least=1, most=4096)] = 1,
        num_gpus: Annotated[int | float, At(least=0, most=1024)] = 0,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if num_gpus > 1 and num_gpus != int(num_gpus):
            raise ConfigError(f"engine.num_gpus: {num_gpus} is neither whole nor a part of one GPU")
        self.needs = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        self.ray = _connected(address)
        self.task = self.ray.remote(
            num_cpus=num_cpus, num_gpus=num_gpus, resources=dict(resources or {}), max_retries=0
        )(_run)
        self.running: dict[Any, Job] = {}  # a reference to the status that comes -> the job
        self.stop = Path.cwd() / f".stop_{uuid4().hex}"  # jobs end when this file appears
        if not self._room():
            wanted = ", ".join(
                f"{number:g} {name}" for name, number in self.needs.items() if number
            )
            console.print(f"engine=ray: no machine has {wanted}; jobs wait until one joins")

    @property
    def slots(self) -> int:
        return max(1, self._room())

    def submit(self, job: Job) -> None:
        environment = {"OMP_NUM_THREADS": str(self.needs["CPU"]), **_carried()}
        here = Job(job.name, job.words, job.log.absolute())
        place = str(Path.cwd()), environment, self.stop
        status = self.task.options(name=job.name).remote(here, *place)
        self.running[status] = job

    def wait(self, seconds: float) -> list[Ended]:
        if not self.running:
            return []
        self.ray.wait(list(self.running), timeout=seconds)
        ended, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        return [self._ended(status, self.running.pop(status)) for status in ended]

    def close(self) -> None:
        running = list(self.running)
        if running:
            self.stop.touch()  # tasks end their process by SIGTERM, and begin no other
            for status in running:
                self.ray.cancel(status)  # for those without a place; a cancel alone can be lost
            _, running = self.ray.wait(running, num_returns=len(running), timeout=PATIENCE + 10)
        for status in running:
            self.ray.cancel(status, force=True)
        self.stop.unlink(missing_ok=True)
        self.running.clear()

    def _room(self) -> int:
        """The number of jobs that the machines of the cluster, were they idle, can run at once."""
        needs = {name: number for name, number in self.needs.items() if number}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(
            min(int(machine.get(name, 0) // number) for name, number in needs.items())
            for machine in machines
        )

    def _ended(self, status: Any, job: Job) -> Ended:
        failures = self.ray.exceptions
        try:
            return Ended(job, self.ray.get(status))
        except failures.RayTaskError as error:
            why = str(error.cause).splitlines()[0]
            raise DdiffError(f"engine=ray: {job.name} could not be started: {why}") from None
        except failures.OutOfMemoryError:  # what Ray does before the system would
            note(job.log, "Ray ended it, for the machine's memory was full")
            return Ended(job, -signal.SIGKILL)
        except failures.RayError as error:
            note(job.log, f"the machine was lost ({type(error).__name__})")
            return Ended(job, None)


def _connected(address: str) -> Any:
    """The package ray, connected to the cluster."""
    try:
        import ray
    except ImportError:
        raise ConfigError("engine=ray needs ray: pip install 'ddiff[ray]'") from None
    if ray.is_initialized():  # by the program that uses this engine
        return ray
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "there is no cluster here" if address == "auto" else f"no cluster at {address}"
        why = "" if address == "auto" else f" ({str(error).splitlines()[0]})"
        raise ConfigError(
            f"engine=ray: {where}{why}; `ray start --head` starts one, and "
            "engine.address=HOST:PORT names another"
        ) from None
    return ray


def _carried() -> dict[str, str]:
    """The part of this process's environment that a job on another machine needs."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or name.startswith("DDIFF_")
    }


def _run(job: Job, folder: str, environment: Mapping[str, str], stop: Path) -> int | None:
    """Run the job on the machine that Ray chose, and return its exit status.

    None: SIGTERM ended it, so that the machine is being taken away, or the engine is closing.
    """
    if stop.exists():
        return None
    with _uninterrupted():  # an interrupt in here would leave a process that nobody ends
        process = start(job, environment, Path(folder))
    with suppress(KeyboardInterrupt):
        for tenth in count():
            if (status := process.poll()) is not None:
                return None if status in TAKEN_AWAY else status
            if tenth % LOOK == 0 and stop.exists():
                break
            time.sleep(0.1)  # short, for ray.cancel interrupts between two of these
    with _uninterrupted():  # nothing must stop the waiting for what is saved
        end([process])
    return None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Context in which interrupts, as ray.cancel sends, do nothing. A process that starts in it
    takes them, which an ignored signal would prevent."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
