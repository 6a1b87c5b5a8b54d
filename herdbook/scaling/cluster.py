"""The clusters and calibrations that the planner reckons with, read from `clusters.yaml` or a file of the user's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from herdbook.settings import Settings, UserError

FILE = Path(__file__).with_name("clusters.yaml")


class Cluster(Settings):
    """A kind of machines; how many of them is the plan's."""

    about: str = ""
    """What it is."""

    device: str
    """The device's name."""

    devices_per_node: int = Field(8, gt=0)
    """Devices that share the fast network."""

    memory: float = Field(gt=0)
    """Of a device, GiB."""

    peak: float = Field(gt=0)
    """Dense bf16 operations a second."""

    peak_fp8: float | None = Field(None, gt=0)
    """Dense 8-bit operations a second; empty where it has none."""

    bandwidth: float = Field(gt=0)
    """Of a device's own memory, bytes a second."""

    node_link: float = Field(gt=0)
    """Between devices of a node, bytes a second each way."""

    network: float = Field(gt=0)
    """Of a device to other nodes, bytes a second each way."""

    latency: float = Field(1e-5, ge=0)
    """Seconds until a message between nodes arrives."""

    watts: float = Field(ge=0)
    """Of a device at full load."""

    cores: int = Field(1, gt=0)
    """Cores of a CPU that peak, bandwidth and watts are for; a process that uses fewer gets its share."""

    overhead: float = Field(1.0, ge=1)
    """Energy of the whole site over that of its devices."""

    carbon: float = Field(ge=0)
    """kg CO2e per kWh."""

    price: float = Field(0.0, ge=0)
    """Dollars a device-hour."""


class Calibration(Settings):
    """What share of the makers' figures is reached."""

    about: str = ""
    """What it was fitted to."""

    matmul: float = Field(gt=0, le=1)
    """Of the peak, in matrix products of a training step."""

    attention_forward: float = Field(0.55, gt=0, le=1)
    """Of the peak, in causal attention going forward."""

    attention_backward: float = Field(0.45, gt=0, le=1)
    """Of the peak, in causal attention going backward."""

    memory: float = Field(0.8, gt=0)
    """Of the bandwidth of a device's memory; above 1 where caches hold what passes."""

    node_link: float = Field(0.8, gt=0, le=1)
    """Of the links within a node."""

    network: float = Field(0.85, gt=0, le=1)
    """Of the links between nodes."""


def read_yaml(path: Path) -> Any:
    """What a YAML file of the user's holds; UserError where it cannot be read or is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML in UTF-8: {' '.join(str(error).split())}") from None


@cache
def _read(path: Path) -> dict[str, Any]:
    found = read_yaml(path)
    if not isinstance(found, dict) or not isinstance(found.get("clusters"), dict):
        raise UserError(f"{path} must hold 'clusters', a mapping from names to clusters; see {FILE.name}")
    return found


def names(path: Path = FILE) -> list[str]:
    """The clusters of a file."""
    return list(_read(path)["clusters"])


def load_cluster(name: str, path: Path = FILE) -> Cluster:
    """The cluster of that name; UserError for an unknown one, or where a figure is missing or wrong."""
    known = _read(path)["clusters"]
    if name not in known:
        raise UserError(f"{path.name} has no cluster {name!r}; it has {', '.join(known)}")
    return checked(Cluster, known[name], f"{path}: cluster {name}")


def cluster_of_device(name: str, path: Path = FILE) -> str:
    """The first cluster of the file whose device a driver's name tells, `cpu` for none; UserError where none does."""
    wanted = name.lower().replace("-", " ").split() or ["cpu"]
    for one in names(path):
        if str(_read(path)["clusters"][one].get("device", "")).lower() in wanted:
            return one
    raise UserError(f"{path.name} has no cluster of {name or 'cpu'} devices; name another one with cluster=NAME")


def load_calibration(path: Path = FILE) -> Calibration:
    """The calibration of a file, or ours where it has none."""
    found = _read(path).get("calibration") or _read(FILE)["calibration"]
    return checked(Calibration, found, f"{path}: calibration")


Checked = TypeVar("Checked", bound=Settings)


def checked(kind: type[Checked], values: Any, where: str) -> Checked:
    """Values as settings; UserError names the first that is wrong and `where` it stands."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        parts = (where, ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))
        raise UserError(": ".join(filter(None, parts))) from None
