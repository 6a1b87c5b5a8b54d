"""Energy comes from the processor's counters where they can be read, and is called an estimate elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from herdbook import energy


def domain(folder: Path, name: str, microjoules: int, wraps_at: int = 1000) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    (made / "energy_uj").write_text(str(microjoules))
    (made / "max_energy_range_uj").write_text(str(wraps_at))
    return made / "energy_uj"


def test_packages_are_summed_parts_are_not_and_a_wrapped_counter_is_mended(tmp_path: Path) -> None:
    first, part, second = (
        domain(tmp_path, "intel-rapl:0", 900),
        domain(tmp_path, "intel-rapl:0:0", 0),
        domain(tmp_path, "intel-rapl:1", 5_000_000, 10_000_000),
    )
    meter = energy.Meter(tmp_path).start()
    first.write_text("100")
    part.write_text("500000")
    second.write_text("9000000")
    used = meter.stop()
    assert used["source"].startswith("rapl")
    assert used["joules"] == pytest.approx((200 + 4_000_000) / 1e6, abs=0.06)


def test_without_counters_it_is_watts_times_core_seconds_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERDBOOK_WATTS_PER_CORE", "100")
    meter = energy.Meter(tmp_path).start()
    before = time.process_time()
    while time.process_time() - before < 0.2:
        pass
    used = meter.stop()
    assert used["joules"] == pytest.approx(100 * (time.process_time() - before), abs=5)
    assert used["source"].startswith("estimate: 100 W per busy core")
