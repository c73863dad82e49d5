"""Jobs on a Slurm cluster, by submitit. Its machines share a file system."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from ddiff.study.engines.base import Ended, Job
from ddiff.study.engines.children import PATIENCE, TAKEN_AWAY, end, note, start
from ddiff.system.bounds import At, Count, Filled
from ddiff.system.errors import ConfigError, DdiffError

ARRAY = 1000  # jobs of an array; Slurm allows one less than 1001 unless it is told otherwise
ASK = 60  # seconds between two questions to Slurm about jobs that left no result
GRACE = 300  # seconds for Slurm to say what follows a SIGTERM that it sent: it requeues, or kills


class Slurm:
    """Jobs of a Slurm cluster, in the current folder. Those queued together are an array.

    A job that is pre-empted, or whose minutes are over, gets SIGTERM, on which a training saves. It
    queues again under its number and continues.
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local", "debug"] = "slurm",
        partition: str | None = None,
        gpus: Annotated[int, At(least=0, most=64)] = 0,
        cpus: Annotated[int, At(least=1, most=4096)] = 1,
        minutes: Annotated[int, At(least=1, most=10**6)] = 60,
        timeouts: Annotated[int, At(least=0, most=10**6)] = 20,
        slots: Count = 8,
        folder: Annotated[str, Filled()] = ".submitit",
        additional_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster, self.slots, self.cpus = cluster, slots, cpus
        self.executor = _executor(cluster, folder, timeouts)
        self.executor.update_parameters(
            name="ddiff",
            timeout_min=minutes,
            cpus_per_task=cpus,
            gpus_per_node=gpus or None,
            slurm_partition=partition,
            slurm_array_parallelism=slots,
            slurm_additional_parameters={"requeue": True, **(additional_parameters or {})},
        )
        self.waiting: list[Job] = []
        self.running: dict[Any, Job] = {}  # submitit's job -> ours
        self.asked = time.monotonic()

    def submit(self, job: Job) -> None:
        self.waiting.append(job)  # until the next wait, so that an array holds them all

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        self._queue()
        while not (found := self._ended()) and self.running and time.monotonic() < until:
            time.sleep(0.2)
        return [self._result(one, self.running.pop(one)) for one in found]

    def close(self) -> None:
        self.waiting.clear()
        for one in reversed(self.running):  # those that wait for a slot first, so that none starts
            if self.cluster == "local":
                with suppress(ProcessLookupError):
                    os.kill(int(one.job_id), signal.SIGTERM)
            else:
                one.cancel(check=False)  # Slurm sends SIGTERM, and SIGKILL after its KillWait
        until = time.monotonic() + PATIENCE
        while len(self._ended(ask=True)) < len(self.running) and time.monotonic() < until:
            time.sleep(1)
        for one in self.running:
            one.cancel(check=False)
        self.running.clear()

    def _queue(self) -> None:
        room = ARRAY if self.cluster == "slurm" else self.slots - len(self.running)
        while self.waiting and room > 0:
            jobs, self.waiting = self.waiting[:room], self.waiting[room:]
            environment = {"OMP_NUM_THREADS": str(self.cpus)}
            here = [Job(job.name, job.words, job.log.absolute()) for job in jobs]
            tasks = [Task(job, str(Path.cwd()), environment) for job in here]
            try:
                queued = self.executor.submit_array(tasks)
            except RuntimeError as error:  # sbatch failed
                why = [line for line in str(error).splitlines() if line.strip()] or [""]
                raise DdiffError(f"engine=slurm: cannot queue jobs: {why[-1].strip()}") from None
            self.running |= dict(zip(queued, jobs, strict=True))
            room = ARRAY if self.cluster == "slurm" else 0

    def _ended(self, ask: bool = False) -> list[Any]:
        """The jobs that left a result, and those of which Slurm says that they are over."""
        if ask := ask or time.monotonic() - self.asked > ASK:
            self.asked = time.monotonic()
        first = next(iter(self.running), None)  # one question is about all of them
        return [one for one in self.running if one.done(force_check=ask and one is first)]

    def _result(self, one: Any, job: Job) -> Ended:
        try:
            status = one.result()
        except RuntimeError as error:  # submitit's, where there is no result
            head, *output = re.split(r"^-{9,}$", str(error), flags=re.M)
            said = (output or [head])[0].strip().splitlines() or ["it left no output"]
            note(job.log, f"job {one.job_id} was lost: {said[-1]}")
            return Ended(job, None)
        return Ended(job, status)


class Task:
    """A job on the machine that Slurm chose. submitit calls it there, and `checkpoint` when the
    machine is wanted or the minutes are over."""

    def __init__(
        self, job: Job, folder: str, environment: Mapping[str, str], status: int | None = None
    ) -> None:
        self.job, self.folder, self.environment = job, folder, environment
        self.status = status  # of a job that ended just when it was to queue again
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int | None:
        """Run the job; the result is its exit status, or None if SIGTERM ended it."""
        if self.status is not None:
            return self.status
        process = self.process = start(self.job, self.environment, Path(self.folder))

        def forward(signum: int, frame: object) -> None:
            if process.returncode is None:  # not terminate(), which would take the end from waitid
                os.kill(process.pid, signum)

        before = signal.signal(signal.SIGTERM, forward)
        try:
            # checkpoint() interrupts this wait, and Popen.wait would hold a lock that it needs
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            status = process.wait()
            if status in TAKEN_AWAY and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                time.sleep(GRACE)  # a result now would end a job that Slurm is about to requeue
        finally:
            signal.signal(signal.SIGTERM, before)
        return None if status in TAKEN_AWAY else status

    def checkpoint(self) -> Any:
        """End the job so that it saves, and return what queues again in its place."""
        from submitit.helpers import DelayedSubmission

        status = None
        if self.process:
            end([self.process])
            status = self.process.returncode
        ended = status is not None and status >= 0 and status not in TAKEN_AWAY
        return DelayedSubmission(
            Task(self.job, self.folder, self.environment, status if ended else None)
        )


def _executor(cluster: str, folder: str, timeouts: int) -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError("engine=slurm needs submitit: pip install 'ddiff[slurm]'") from None
    try:
        own = {"slurm_max_num_timeout": timeouts, "local_max_num_timeout": timeouts}
        return submitit.AutoExecutor(folder, cluster, **own)
    except RuntimeError:
        raise ConfigError(
            "engine=slurm: there is no srun here; start this where sbatch works, or say "
            "engine.cluster=local"
        ) from None
