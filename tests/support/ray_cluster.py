"""Eight jobs on a real Ray cluster of two workers, one of which is killed.

`python -m tests.support.ray_cluster FILE` writes how it went, as JSON.
"""

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from ddiff.study.engines import Job, Ray, run_all
from tests.support.counting import numbers, processes

SMALL = {"object_store_memory": 80 * 2**20}
QUICK = {  # a dead machine is noticed in 5 seconds, not in 15; in 1, a busy one counts as dead
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    "memory_monitor_refresh_ms": 0,  # other tests may fill the machine
}


class Counted(Ray):
    """The engine, and how often each job was submitted."""

    def submit(self, job: Job) -> None:
        submitted[job.name] += 1
        super().submit(job)


submitted: Counter[str] = Counter()


def counting(name: str, steps: int, seconds: float) -> Job:
    words = ("tests.support.counting", name, str(steps), str(seconds))
    return Job(name, words, Path(f"{name}.log"))


def wait_for(name: str, least: int) -> None:
    while len(numbers(Path(name))) < least:
        time.sleep(0.02)


def main() -> None:
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    workers = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    engine = Counted(cluster.address)
    found: dict[str, object] = {"slots": engine.slots}

    def kill_its_machine() -> None:
        wait_for("job3", 3)
        (process,) = processes(Path("job3"))
        above = {parent.pid for parent in psutil.Process(int(process)).parents()}
        (its,) = (one for one in workers if one.all_processes["raylet"][0].process.pid in above)
        cluster.remove_node(its, allow_graceful=False)

    threading.Thread(target=kill_its_machine).start()
    jobs = [counting(f"job{n}", 10, 0.3 if n == 3 else 0.02) for n in range(8)]
    found["statuses"] = [ended.status for ended in run_all(engine, jobs)]
    found["submitted"] = dict(submitted)
    found["numbers"] = {job.name: numbers(Path(job.name)) for job in jobs}
    found["processes"] = {job.name: len(processes(Path(job.name))) for job in jobs}

    engine.submit(counting("endless", 10**6, 0.1))
    engine.submit(counting("queued", 10, 0.1))
    wait_for("endless", 3)
    started = time.monotonic()
    engine.close()
    found["close"] = time.monotonic() - started
    found["endless"] = Path("endless").read_text().splitlines()[-1].split()[0]
    found["queued"] = Path("queued").exists()
    ray.shutdown()
    cluster.shutdown()
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
