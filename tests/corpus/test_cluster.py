"""On a cluster of several nodes on this machine: the same survivors as natively, whatever dies on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus import curate as curation
from herdbook.corpus.curate import curate, on_ray
from herdbook.corpus.reuse import prepare
from herdbook.corpus.settings import CurateSettings
from herdbook.settings import UserError
from tests.corpus.crawls import GONE, bad_sources, members
from tests.corpus.test_curate import crawl_records

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (herdbook[ray])")
SETTINGS = {"workers": 1, "measure": {"shard_mb": 0.003, "max_text_mb": 2}}

# Its own process: Ray and Daft's runner can be set up once in each.
CLUSTER = """
import json, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import psutil, ray
from ray.cluster_utils import Cluster
from herdbook.corpus import cluster as engine
from herdbook.corpus import curate as curation
from herdbook.corpus.curate import curate
from herdbook.corpus.settings import CurateSettings

pages, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
room = {"object_store_memory": 100 << 20, "num_cpus": 1}
nodes = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False})
for _ in range(2):
    nodes.add_node(**room)
os.environ["RAY_ADDRESS"] = nodes.address
engine.connect()
os.chdir(pages.parent)  # workers stay where they were: relative paths must reach them whole
pages, out = Path(pages.name), Path(os.path.relpath(out))
killed = []

def kill() -> None:
    # A worker in the middle of a shard, once some are published and others are not.
    while not killed:
        time.sleep(0.02)
        published = len(list((out / "measured").glob("*.parquet")))
        if published >= 2:
            for process in psutil.Process().children(recursive=True):
                if "measure_shard" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append([process.pid, published])
                    return

def planned(*arguments) -> None:
    for source in settings["sources"]:  # a file that goes once the sources are planned
        (Path(source["path"]) / "gone.jsonl").unlink()
    prepare(*arguments)

prepare, curation.prepare = curation.prepare, planned
thread = threading.Thread(target=kill, daemon=True)
if settings.pop("kill"):
    thread.start()
figures = curate(CurateSettings.model_validate(settings), [pages], out)
print("RESULT" + json.dumps([figures["documents"], killed, len(ray.nodes())]))
"""


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "crawl.warc.gz").write_bytes(b"".join(members(crawl_records())))
    return folder


def run(crawl: Path, out: Path, **settings: Any) -> Any:
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAFT_ANALYTICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
    }
    environment = {**os.environ, **quiet, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [str(crawl), str(out), json.dumps(SETTINGS | settings)]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1].split("\n")[0])


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(f) for f in sorted((out / name).glob("*.parquet"))]).to_pylist()


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_three_nodes_keeps_the_same_documents_though_a_worker_is_killed_and_sources_are_bad(
    crawl: Path, tmp_path: Path
) -> None:
    _, reasons = bad_sources(tmp_path / "bad")
    sources = [{"path": str(tmp_path / "bad")}]
    gone = (tmp_path / "bad" / GONE).read_bytes()
    documents, killed, nodes = run(crawl, tmp_path / "ray", engine="auto", kill=True, sources=sources)
    (tmp_path / "bad" / GONE).write_bytes(gone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curation, "prepare", lambda *given: ((tmp_path / "bad" / GONE).unlink(), prepare(*given)))
        figures = curate(CurateSettings.model_validate({**SETTINGS, "sources": sources}), [crawl], tmp_path / "native")
    assert documents["quarantined"] == len(reasons)
    assert documents["read"] == documents["kept"] + documents["dropped"] + documents["quarantined"]
    left, right = ((tmp_path / name / "quarantine.jsonl").read_text() for name in ("ray", "native"))
    assert left == right
    assert nodes == 3 and len(killed) == 1 and killed[0][1] < len(list((tmp_path / "ray").glob("measured/*.parquet")))
    assert documents == figures["documents"]
    for name in ("documents", "measurements"):
        assert rows(tmp_path / "ray", name) == rows(tmp_path / "native", name)


def test_the_engine_goes_by_the_setting_then_the_option_then_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("HERDBOOK_ENGINE", raising=False)
    assert not on_ray(CurateSettings())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert on_ray(CurateSettings()) and not on_ray(CurateSettings(engine="native"))
    monkeypatch.setenv("HERDBOOK_ENGINE", "native")
    assert not on_ray(CurateSettings()) and on_ray(CurateSettings(engine="ray"))


def test_without_ray_the_user_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, crawl: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"herdbook\[ray\]"):
        curate(CurateSettings(engine="ray"), [crawl], tmp_path)
