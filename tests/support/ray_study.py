"""A study of eight trainings on a real Ray cluster of two workers, one of which is killed.

`python -m tests.support.ray_study FILE WORDS...` runs `ddiff.study WORDS... engine=ray` in the
current folder, and writes how it went, as JSON.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.support.ray_cluster import QUICK, SMALL


def main() -> None:
    file, *words = sys.argv[1:]
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    workers = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    study = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "ddiff.study", *words, "engine=ray"],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while study.poll() is None and not list(Path().glob("*/*/seed_*/tensorboard")):
        time.sleep(0.1)
    cluster.remove_node(workers[0], allow_graceful=False)
    out, _ = study.communicate()
    ray.shutdown()
    cluster.shutdown()
    logs = [log.read_text() for log in Path().glob("*/*/seed_*/log.txt")]
    lost = sum("the machine was lost" in log for log in logs)
    Path(file).write_text(json.dumps({"status": study.returncode, "out": out, "lost": lost}))


if __name__ == "__main__":
    main()
