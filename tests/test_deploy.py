"""What schedulers are given: held against shellcheck and Kubernetes' own schemas, and the script against a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from herdbook.cli import app
from herdbook.recipe import read_recipe
from herdbook.train.machines import machines_of
from herdbook.train.settings import TrainSettings

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "cluster-8b.yaml"


def deployed(*words: str) -> str:
    ran = CliRunner().invoke(app, ["deploy", *words])
    assert ran.exit_code == 0, ran.output
    return ran.output


def documents(*words: str) -> dict[str, Any]:
    found = yaml.safe_load_all(deployed("kubernetes", str(RECIPE), *words))
    return {item["kind"]: item for item in found}


def test_the_slurm_script_has_no_fault_that_bash_or_shellcheck_know(tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(deployed("slurm", str(RECIPE), "--env", "HERDBOOK_GENERAL=/data/it's here", "--partition", "gpu"))
    subprocess.run(["bash", "-n", str(path)], check=True)
    tool = Path(sys.executable).with_name("shellcheck")
    if not tool.exists():
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run([str(tool), str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_signal_before_the_limit_saves_and_queues_the_job_again(tmp_path: Path) -> None:
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    # Stand-ins for Slurm: srun takes a second to "save" after SIGTERM, as training does.
    (tools / "srun").write_text(
        f"#!/bin/bash\necho \"srun $*\" >> {log}\ntrap 'sleep 1; echo saved >> {log}; exit 143' TERM\n"
        f'echo "$HERDBOOK_RENDEZVOUS $HERDBOOK_RUN" >> {log}\nwhile true; do sleep 0.1; done\n'
    )
    (tools / "scontrol").write_text(
        f'#!/bin/bash\nif [ "$1" = show ]; then printf "gpu7\\ngpu8\\n"; else echo "scontrol $*" >> {log}; fi\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(deployed("slurm", str(RECIPE), "base.seed=3"))
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "41",
                   "SLURM_JOB_NODELIST": "gpu[7-8]", "SLURM_RESTART_COUNT": "2"}  # fmt: skip
    process = subprocess.Popen(["bash", str(script)], env=environment)
    end = time.monotonic() + 20
    while not (log.exists() and "29400" in log.read_text()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    started, place, *rest = log.read_text().splitlines()
    assert started.endswith(f"herdbook run {RECIPE} base.seed=3 --book /book")
    assert place == "gpu7:29400 41-2"
    assert rest == ["saved", "scontrol requeue 41"]


def test_a_run_that_ends_by_itself_is_not_queued_again(tmp_path: Path) -> None:
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/bash\nexit 2\n")
    (tools / "scontrol").write_text(f'#!/bin/bash\n[ "$1" = show ] || echo "$@" >> {log}\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(deployed("slurm", str(RECIPE)))
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "a"}
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **slurm}
    assert subprocess.run(["bash", str(script)], env=environment).returncode == 2
    assert not log.exists()


def test_the_manifests_are_what_kubernetes_knows() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    found = documents("--image", "registry/herdbook:1")
    assert list(found) == ["ConfigMap", "Service", "Job"]
    for item in found.values():
        kubernetes_validate.validate(item, "1.33", strict=True)
    broken = {**found["Job"], "spec": {**found["Job"]["spec"], "completion": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.33", strict=True)


def test_the_pods_find_their_number_and_the_first_of_them(tmp_path: Path) -> None:
    found = documents("--env", "A=b c")
    job, service = found["Job"]["spec"], found["Service"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    variables = {item["name"]: item["value"] for item in container["env"]}
    # What Kubernetes adds itself: each pod's index, and its name within the service.
    environment = {**variables, "JOB_COMPLETION_INDEX": "5"}
    settings = read_recipe(RECIPE).stages["base"].settings
    assert isinstance(settings, TrainSettings)
    place = machines_of(settings.parallel, environment)
    assert (place.count, place.number) == (job["completions"], 5) == (16, 5)
    assert place.endpoint == f"{found['Job']['metadata']['name']}-0.{service['metadata']['name']}:29400"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert variables["A"] == "b c"
    mounted = tmp_path / "recipe.yaml"
    mounted.write_text(found["ConfigMap"]["data"]["recipe.yaml"])
    assert mounted.read_text() == RECIPE.read_text()
    assert container["command"] == ["herdbook", "run", "/recipe/recipe.yaml", "--book", "/book"]


def test_machines_that_do_not_divide_are_told() -> None:
    ran = CliRunner().invoke(app, ["deploy", "slurm", str(RECIPE), "--machines", "24"])
    assert ran.exit_code == 2
    assert "base: its 128 processes can't be spread evenly over 24 machines" in ran.output
    assert "such as 16" in ran.output
    fewer = deployed("slurm", str(RECIPE), "--machines", "32")
    assert "--nodes=32" in fewer and "--gpus-per-node=4" in fewer and "base.parallel.machines=32" in fewer


def test_the_files_in_deploy_are_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    root = RECIPE.parents[1]
    monkeypatch.chdir(root)
    for scheduler, name in (("slurm", "cluster-8b.sh"), ("kubernetes", "cluster-8b.k8s.yaml")):
        assert (root / "deploy" / name).read_text() == deployed(scheduler, "recipes/cluster-8b.yaml"), name
