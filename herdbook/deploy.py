"""A recipe as a cluster's scheduler takes it: a Slurm script, or a Kubernetes Job with its service and its recipe.

Both start the same `herdbook run` once on every machine, tell the machines where to meet, and let training save and go
on: Slurm by a signal before the time limit and a place in the queue again, Kubernetes by new pods for lost ones. The
book lies on storage that all machines share.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from herdbook.recipe import Recipe
from herdbook.settings import UserError
from herdbook.train.machines import PORT
from herdbook.train.settings import TrainSettings

MISTAKE = 2  # the exit code of a user's mistake, which no restart mends
GRACE_SECONDS = 600  # to save a checkpoint in
SHARED_MEMORY = "32Gi"  # NCCL's, on each machine


@dataclass(frozen=True)
class Job:
    """What is the same on every scheduler."""

    name: str
    recipe: Path
    overrides: tuple[str, ...]
    book: str
    machines: int
    devices: int
    """Devices of each machine."""

    environment: dict[str, str]

    def command(self, recipe: str) -> list[str]:
        """What every machine runs; `recipe` is the recipe's path there."""
        return ["herdbook", "run", recipe, *self.overrides, "--book", self.book]


def job_of(
    recipe: Recipe, overrides: Sequence[str], book: str, machines: int | None, environment: Sequence[str]
) -> Job:
    """The job of a recipe; UserError when its stages do not fill the machines, or a variable is no NAME=VALUE."""
    stages = {name: stage.settings for name, stage in recipe.stages.items()}
    topologies = {name: item.parallel for name, item in stages.items() if isinstance(item, TrainSettings)}
    largest = max((item.machines for item in topologies.values()), default=1)
    count = machines or largest
    changes = []
    for name, parallel in topologies.items():
        if parallel.size > 1 and parallel.machines != count and parallel.replica_groups == 1:
            if parallel.size % count:
                raise UserError(
                    f"{name}: its {parallel.size} processes can't be spread evenly over {count} machines; "
                    f"give --machines a divisor, such as {parallel.size // recipe.machine.per_machine or 1}"
                )
            changes.append(f"{name}.parallel.machines={count}")
    sizes = [item.processes // item.machines for item in topologies.values() if item.replica_groups > 1]
    sizes += [item.size // count for item in topologies.values() if item.size > 1 and item.replica_groups == 1]
    pairs = dict(_pair(item) for item in environment)
    name = re.sub(r"[^a-z0-9-]+", "-", recipe.name.lower()).strip("-") or "herdbook"
    devices = max(sizes, default=1)
    return Job(name[:50], recipe.path, (*overrides, *changes), book, count, devices, pairs)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UserError(f"--env {text}: write NAME=VALUE")
    return name, value


def slurm(job: Job, time: str = "24:00:00", partition: str = "") -> str:
    """The script that `sbatch` takes."""
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.machines}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={job.devices}",
        "--exclusive",
        f"--time={time}",
        f"--signal=B:TERM@{GRACE_SECONDS}",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.log",
        *([f"--partition={partition}"] if partition else []),
    ]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            "",
            "# Where the machines meet, and a name for this attempt: a job that was queued again has its old number.",
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f'export HERDBOOK_RENDEZVOUS="$first:{PORT}"',
            'export HERDBOOK_RUN="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
            *exports,
            "",
            f"# {GRACE_SECONDS} s before the time limit, or when others need the machines, training is told to save.",
            "asked=",
            "trap 'asked=1; kill -TERM \"$step\"' TERM",
            f"srun --kill-on-bad-exit=0 {shlex.join(job.command(str(job.recipe)))} &",
            "step=$!",
            'wait "$step"',
            "code=$?",
            'if [ -n "$asked" ]; then',
            '    wait "$step"  # the first wait was ended by the signal',
            "    code=$?",
            '    [ "$code" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def kubernetes(job: Job, image: str, claim: str) -> str:
    """The manifests that `kubectl apply -f` takes: the recipe, a name for each machine, and an indexed Job.

    `image` has herdbook installed; `claim` names a PersistentVolumeClaim that many machines may write.
    """
    labels = {"app": job.name}
    recipe = job.recipe.read_text(encoding="utf-8")
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": job.name, "labels": labels},
            "data": {"recipe.yaml": recipe},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": job.name, "labels": labels},
            # Without an address of its own it gives each pod a name; they look for each other before they are ready.
            "spec": {"clusterIP": "None", "selector": labels, "publishNotReadyAddresses": True},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.name, "labels": labels},
            "spec": _job_spec(job, image, claim, labels),
        },
    ]
    return yaml.dump_all(documents, Dumper=_Readable, sort_keys=False, width=120, allow_unicode=True)


class _Readable(yaml.SafeDumper):
    """Writes texts of several lines as they stand."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def _job_spec(job: Job, image: str, claim: str, labels: dict[str, str]) -> dict[str, Any]:
    variables = {"HERDBOOK_RENDEZVOUS": f"{job.name}-0.{job.name}:{PORT}", "HERDBOOK_RUN": job.name, **job.environment}
    container = {
        "name": "herdbook",
        "image": image,
        "command": job.command("/recipe/recipe.yaml"),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"limits": {"nvidia.com/gpu": job.devices}},
        "volumeMounts": [
            {"name": "recipe", "mountPath": "/recipe"},
            {"name": "book", "mountPath": job.book},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {"name": "recipe", "configMap": {"name": job.name}},
        {"name": "book", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
    ]
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "herdbook", "operator": "In", "values": [MISTAKE]}},
    ]
    pod = {
        "subdomain": job.name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": volumes,
    }
    return {
        "completionMode": "Indexed",
        "completions": job.machines,
        "parallelism": job.machines,
        "backoffLimit": 10 * job.machines,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
