"""The planner against the paper's table 4, model card and interruptions, and against closed forms."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from herdbook.cli import app
from herdbook.model.config import preset
from herdbook.planning import plan_settings
from herdbook.report.plan import plan_lines
from herdbook.scaling.calibrate import calibrated, fit_matmul
from herdbook.scaling.cluster import Calibration, load_calibration, load_cluster, names
from herdbook.scaling.interruptions import (
    Remedies,
    Worth,
    best_interval,
    daly,
    expected_share,
    paper_record,
    read_record,
    simulate,
    worth,
    young,
)
from herdbook.scaling.planner import PlanSettings, make_plan
from herdbook.scaling.search import binding, reasons, search
from herdbook.scaling.serving import cache_bytes, serve
from herdbook.scaling.steps import GIB, Layout, Step
from herdbook.settings import UserError

MODEL, CLUSTER = preset("llama3-405b"), load_cluster("h100-roce")
BATCH = 16 * 2**20
TABLE4 = [  # devices, (TP, CP, PP, DP), length, rows of a data rank, TFLOPs, MFU
    (8192, (8, 1, 16, 64), 8192, 32, 430, 0.43),
    (16384, (8, 1, 16, 128), 8192, 16, 400, 0.41),
    (16384, (8, 16, 16, 8), 131_072, 16, 380, 0.38),
]


def table4_step(row: int) -> Step:
    _, (t, c, p, d), length, rows, _, _ = TABLE4[row]
    return Step(MODEL, Layout(t, c, p, d, 1, rows, 8, "selective"), length, CLUSTER, load_calibration())


def test_table_4_from_its_first_row() -> None:
    calibration = fit_matmul(table4_step(0), 430)
    assert calibration.matmul == pytest.approx(load_calibration().matmul, abs=5e-4)  # what clusters.yaml says
    for row, (devices, topology, length, _, tflops, mfu) in enumerate(TABLE4):
        step = replace(table4_step(row), calibration=calibration)
        assert step.layout.devices == devices and step.tokens == BATCH and step.fits
        assert step.tflops == pytest.approx(tflops, rel=0.05), row
        assert step.mfu() == pytest.approx(mfu, abs=0.02), row
        assert step.seconds == pytest.approx(sum(step.parts.values()))
        best = [found.layout.topology for found in search(MODEL, CLUSTER, calibration, devices, BATCH, length).best[:5]]
        assert topology in best, (row, best)


def test_operations_of_a_step_by_hand() -> None:
    """12 numbers of 405B's shape, multiplied out: §3.2 table 3, attention causal."""
    block = 2 * 16384 * 16384 + 2 * 16384 * 1024 + 3 * 16384 * 53248
    per_token = 6 * (126 * block + 16384 * 128256) + 12 * 126 * 16384 * (8192 + 1) / 2
    assert table4_step(0).flops() == pytest.approx(per_token * BATCH, rel=1e-12)
    full = 6 * (126 * block + 16384 * 128256) + 12 * 126 * 16384 * 131_072
    assert table4_step(2).flops(full=True) == pytest.approx(full * BATCH, rel=1e-12)


def test_405b_costs_what_the_model_card_says() -> None:
    """30.84M device-hours of 700 W and 8,930 t: 14.8T tokens in rows of 8K and 800B in rows of up to 128K (§3.4)."""
    plans = [
        make_plan(PlanSettings(model="llama3-405b", devices=16384, tokens=t, batch=BATCH, length=n))
        for t, n in ((14.8e12, 8192), (0.8e12, 131_072))
    ]
    assert sum(plan.device_hours for plan in plans) == pytest.approx(30.84e6, rel=0.05)
    assert sum(plan.kwh for plan in plans) == pytest.approx(30.84e6 * 0.7, rel=0.05)
    assert sum(plan.tonnes for plan in plans) == pytest.approx(8930, rel=0.05)
    assert plans[0].outcome.mean > 0.90


def test_interruptions_of_the_54_days() -> None:
    record = paper_record()
    assert record.unplanned == 419 and 1 / record.per_second(16384) / 3600 == pytest.approx(3.09, abs=0.01)
    quick = simulate(16384, 54, Remedies(save=10, notice=0, restart=300))
    slow = simulate(16384, 54, Remedies(save=60, notice=0, restart=600))
    assert quick.mean == pytest.approx(0.93, abs=0.01) and slow.mean == pytest.approx(0.85, abs=0.01)
    total = quick.mean + quick.saving + quick.lost + quick.down + quick.waiting
    assert total == pytest.approx(1, abs=1e-9)
    # All the interruptions that come while training is up.
    assert quick.interruptions.mean() == pytest.approx(419 * (1 - quick.down), rel=0.02)


def test_simulation_is_dalys_closed_form() -> None:
    record = paper_record().model_copy(update={"planned": 0})
    for save, restart, interval in ((10.0, 300.0, None), (60.0, 600.0, 3000.0), (120.0, 60.0, 400.0)):
        how = Remedies(save=save, notice=0, restart=restart, interval=interval)
        found = simulate(16384, 200, how, record, draws=300)
        exact = expected_share(save, found.interval, found.between, restart)
        assert found.mean == pytest.approx(exact, abs=0.004)
    between = 1 / record.per_second(16384)
    assert daly(10, between) == pytest.approx(young(10, between), rel=0.03)
    grid = np.geomspace(100, 5000, 400)
    shares = [expected_share(60, one, between, 300) for one in grid]
    assert grid[int(np.argmax(shares))] == pytest.approx(daly(60, between), rel=0.03)


def test_spares_and_groups_are_worth_something() -> None:
    few = simulate(16384, 54, Remedies(spares=3, repair=24), draws=100)
    many = simulate(16384, 54, Remedies(spares=100, repair=24), draws=100)
    enough = simulate(16384, 54, Remedies(), draws=100)
    assert few.mean < many.mean - 0.1 and many.mean == pytest.approx(enough.mean, abs=0.005) and few.waiting > 0.1
    assert simulate(16384, 54, Remedies(groups=8), draws=100).mean > enough.mean + 0.03
    between = 1 / paper_record().per_second(16384)
    best = best_interval(16384, 54, Remedies(save=60), draws=100)
    assert 0.75 < best / daly(60, between) < 1.3  # flat about its maximum
    gains = {one.remedy: one for one in worth(16384, 54, Remedies(spares=30), draws=20)}
    assert gains["spare nodes"].gain > gains["fast checkpoints"].gain > 0 and gains["spare nodes"].had
    assert 0 < gains["checkpoints in memory"].gain < 0.05 and not gains["checkpoints in memory"].had
    grouped, plain = (simulate(16384, 54, Remedies(spares=30, groups=n), draws=20).mean for n in (8, 1))
    assert gains["replica groups"].gain == pytest.approx(grouped - plain)
    having = {one.remedy: one for one in worth(16384, 54, Remedies(groups=4), draws=5)}
    assert having["replica groups"].had and "more spare nodes" not in having


def test_a_remedy_that_costs_saves_less_than_nothing() -> None:
    plan = make_plan(PlanSettings(model="10m", devices=1, tokens=1e14, batch=65_536, length=2048))
    gains = {"helps": (True, 0.01), "harms": (True, -0.01), "would help": (False, 0.01), "would harm": (False, -0.01)}
    plan.__dict__["worth"] = [Worth(name, "so", had, gain) for name, (had, gain) in gains.items()]
    for name, (had, gain) in gains.items():
        with_it, without = sorted((plan.outcome.mean, plan.outcome.mean + (-gain if had else gain)), reverse=gain > 0)
        money = (plan.days / without - plan.days / with_it) * 24 * plan.cluster.price
        (row,) = (line for line in plan_lines(plan) if line.startswith(f"{name}  "))
        assert float(row.split()[-1].replace(",", "")) == pytest.approx(money, abs=0.51) and money * gain > 0


def test_a_record_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("devices: 64\ndays: 100\ncauses:\n  gpu: {count: 4}\n")
    assert 1 / read_record(path).per_second(128) == pytest.approx(100 * 86_400 / 8)
    for text, told in (
        ("devices: 64\ndays: 100\ncauses:\n  gpu: {count: -4}\n", r"ours\.yaml: causes\.gpu\.count: .* or equal to 0"),
        (
            "devices: 64\ndays: 100\ncauses: {}\n",
            r"ours\.yaml: causes hold no interruption; .*; see interruptions\.yaml",
        ),
        ("a: [1,\n", r"ours\.yaml is no YAML"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read_record(path)


def test_memory_of_the_parts_by_hand() -> None:
    parts = table4_step(0).memory_parts()
    block = 2 * 16384 * 16384 + 2 * 16384 * 1024 + 3 * 16384 * 53248
    local = 8 * block / 8
    assert parts["weights"] == 2 * local and parts["gradients"] == 4 * local and parts["optimizer"] == 12 * local / 64
    # Interleaved 1F1B: (8 - 1) * 16 + 2 * 15 stages' micro-batches ahead, and one; each is one block here.
    kept = 2 * 8192 * (2 * 16384 + 2 * 16384 + 2 * 1024 + 2 * 53248) / 8
    assert parts["activations"] == pytest.approx((7 * 16 + 30 + 1) * kept)


def test_too_small_a_cluster_says_what_would_do() -> None:
    with pytest.raises(UserError, match=r"lacks .* 128 would hold it"):
        search(MODEL, CLUSTER, load_calibration(), 64, BATCH, 8192)
    with pytest.raises(UserError, match=r"no whole number of rows of 8,192; 8,192 is"):
        search(MODEL, CLUSTER, load_calibration(), 64, 8193, 8192)
    with pytest.raises(UserError, match="full peak it would be"):
        fit_matmul(table4_step(0), 2000)
    with pytest.raises(UserError, match="no cluster 'h1000'"):
        load_cluster("h1000")


@pytest.mark.parametrize(("rows", "told"), [(384, 24), (160, 32)])  # 160 rows are no multiple of three
def test_the_devices_told_are_the_fewest_whole_nodes_that_do(rows: int, told: int) -> None:
    model, calibration = preset("llama3-70b"), load_calibration()
    for fewer in range(8, told, 8):
        with pytest.raises(UserError, match=f"{told} would hold it|divides the model"):
            search(model, CLUSTER, calibration, fewer, rows * 8192, 8192)
    assert search(model, CLUSTER, calibration, told, rows * 8192, 8192).best


def test_reasons_name_what_binds() -> None:
    found = search(MODEL, CLUSTER, load_calibration(), 16384, BATCH, 8192).best[0]
    told = {reason.change: reason for reason in reasons(found)}
    assert "GiB" in told["recompute none"].why and told["recompute none"].ratio is None
    assert told["pipeline 32"].ratio is not None and "bubble" in told["pipeline 32"].why
    assert "recomputed" in told["pipeline 8"].why and "recomputed" in told["recompute full"].why
    bound = binding(found)
    assert bound[0].startswith("products: 70.") and bound[1].startswith("tensor")
    tight = search(preset("llama3-8b"), CLUSTER, load_calibration(), 8, 4_194_304, 8192).best[0]
    assert binding(tight)[0].startswith("memory: ") and not any("memory: " in one for one in bound)
    assert told["recompute full"].ratio == pytest.approx(4 / 3, abs=0.05)


def test_reasons_and_hints_are_those_of_the_search() -> None:
    """A context rank may keep few tokens of a row where the search was told so, and else that is the reason."""
    small, cal = preset("llama3-8b"), load_calibration()
    found = search(small, CLUSTER, cal, 16, 16 * 8192, 8192, context_tokens=2048).best[0]
    ours, usual = ({one.change: one for one in reasons(found, least)} for least in (2048, 8192))
    assert found.layout.context == 1 and ours["context 2"].ratio is not None
    assert usual["context 2"].ratio is None
    assert usual["context 2"].why == "leaves a rank 4,096 tokens of a row, not 8,192"
    # Of one row only context ranks can share: as many as would hold it, where the search may take them.
    row = (preset("llama3-70b"), CLUSTER, cal, 8, 131_072, 131_072)
    with pytest.raises(UserError, match="32 would hold it"):
        search(*row, context_tokens=8192)
    with pytest.raises(UserError, match="no number of them would"):
        search(*row, context_tokens=131_072)


@pytest.mark.parametrize(
    ("cluster", "model", "devices"), [("h100-roce", "llama3-8b", 512), ("b200-infiniband", "llama3-70b", 1024)]
)
def test_no_step_is_shorter_than_its_bytes_take_to_send(cluster: str, model: str, devices: int) -> None:
    ours, calibration, config = load_cluster(cluster), load_calibration(), preset(model)
    for step in search(config, ours, calibration, devices, 4_194_304, 8192).best:
        shares = step.layout.data * step.layout.context
        gathered = 2 + 4  # bytes of a weight in bf16 and of its gradient in fp32
        least = config.parameters() / step.layout.tensor / step.layout.pipeline * gathered * (shares - 1) / shares
        assert step.seconds >= 0.999 * least / (ours.network * calibration.network) or shares * step.layout.tensor <= 8


@pytest.mark.parametrize("model", ["llama3.2-1b", "llama3.2-3b", "llama3-8b"])
def test_no_layout_does_less_arithmetic_or_holds_less_than_the_model_has(model: str) -> None:
    cluster, calibration, config = load_cluster("h100-roce"), load_calibration(), preset(model)
    for step in search(config, cluster, calibration, 8, 4_194_304, 8192).best:
        products = step.parts["products"] + step.parts.get("head", 0)
        least = 6 * config.matmul_parameters() * step.tokens / 8 / (calibration.matmul * cluster.peak)
        assert products >= 0.999 * least, step.layout
        assert step._local >= 0.98 * config.parameters() / step.layout.tensor / step.layout.pipeline


def test_tied_tables_are_held_once() -> None:
    tied = preset("llama3.2-1b")
    step = Step(tied, Layout(1, 1, 1, 1, 1, 1), 8192, CLUSTER, load_calibration())
    norms = (2 * tied.layers + 1) * tied.dim
    assert tied.tied_embeddings and step.memory_parts()["weights"] == 2 * (tied.parameters() - norms)


def test_what_a_step_of_our_own_adds_by_hand() -> None:
    """fp32, Muon's products (5 rounds, rows m <= n: 4 m m n + 2 m^3) and the passes over the logits."""
    config, cal = preset("10m"), load_calibration()
    plain = Step(config, Layout(1, 1, 1, 1, 4, 2), 1024, CLUSTER, cal)
    wide = replace(plain, item=4, muon=True)
    assert wide.parts["memory passes"] == pytest.approx(2 * plain.parts["memory passes"])
    d, k, f = config.dim, config.kv_heads * config.head_width, config.ffn_dim
    assert k <= d <= f and config.heads * config.head_width == d
    rounds = 2 * (4 * d**3 + 2 * d**3) + 2 * (4 * k * k * d + 2 * k**3) + 3 * (4 * d * d * f + 2 * d**3)
    assert wide.parts["muon"] == pytest.approx(5 * config.layers * rounds / (cal.matmul * 989e12))
    there = replace(plain, cluster=load_cluster("laptop"), item=4)
    passes = 4 * (12 * d + 4 * f + 6 * 256 * config.heads) * 3 * config.layers  # 256 tokens attended to, there and back
    assert replace(there, attended=256).parts["memory passes"] == pytest.approx(8 * 1024 * passes / (0.8 * 30e9))
    assert plain.parts["loss"] == pytest.approx(4 * 4 * 8 * 1024 * config.vocab_size / (0.8 * 3.35e12))


def test_calibration_finds_the_shares_that_made_the_times() -> None:
    true = load_calibration().model_copy(
        update={"matmul": 0.283, "attention_forward": 0.275, "attention_backward": 0.225, "memory": 1.6}
    )
    links = true.model_copy(update={"node_link": 0.4, "network": 0.425})
    shapes = [(preset("10m"), 1), (preset("50m"), 1), (preset("10m"), 2)]
    steps = [Step(c, Layout(t, 1, 1, 1, 4, 2), 1024, CLUSTER, load_calibration()) for c, t in shapes]
    seconds = [replace(step, calibration=links).seconds for step in steps]
    found = calibrated(steps, seconds, "three runs")
    assert found.about == "three runs"
    shares = found.model_dump(exclude={"about"})
    assert shares == pytest.approx(links.model_dump(exclude={"about"}), rel=1e-6)
    one = calibrated(steps[:1], [2 * steps[0].seconds])
    assert replace(steps[0], calibration=one).seconds == pytest.approx(2 * steps[0].seconds)
    assert one.memory == 0.8 and one.attention_forward / one.matmul == pytest.approx(0.55 / 0.566)
    # Two shapes whose times contradict the parts: one share for both, between the two.
    odd = calibrated(steps[:2], [9 * steps[0].seconds, 3 * steps[1].seconds])
    assert odd.memory == 0.8 and 0.566 / 12 < odd.matmul < 0.566 / 2
    with pytest.raises(UserError, match="full peak it would be"):
        calibrated(steps[:1], [0.1 * steps[0].seconds])
    # Links faster than their makers say are taken at their word: what is printed can be read again.
    quick = true.model_copy(update={"node_link": 9.0, "network": 9.0})
    fast = calibrated(steps, [replace(step, calibration=quick).seconds for step in steps])
    assert 0.9 < fast.network <= 1 and Calibration.model_validate(fast.model_dump()) == fast


def test_serving() -> None:
    assert cache_bytes(preset("llama3-8b")) == 2 * 2 * 32 * 8 * 128
    calibration = load_calibration()
    whole = serve(MODEL, CLUSTER, calibration, scheme="bf16")
    small = serve(MODEL, CLUSTER, calibration, scheme="fp8")
    assert (whole.devices, small.devices) == (16, 8)  # §6.1: bf16 needs two nodes; §6.2: fp8 one
    assert 1.2 < small.prefill / whole.prefill <= 2.0
    # One answer at a time: a token takes as long as the weights take to be read.
    alone = serve(preset("llama3-8b"), CLUSTER, calibration, batch=1)
    read = 2 * preset("llama3-8b").parameters() / (0.8 * 3.35e12)
    assert alone.step == pytest.approx(read, rel=0.02)
    with pytest.raises(UserError, match=r"8 devices .* do not hold .*; 16 would"):
        serve(MODEL, CLUSTER, calibration, devices=8)
    with pytest.raises(UserError, match="no 8-bit"):
        serve(MODEL, load_cluster("a100-infiniband"), calibration, scheme="fp8")


@pytest.mark.parametrize("cluster", names())
def test_every_cluster_plans_a_small_model(cluster: str) -> None:
    plan = make_plan(PlanSettings(model="10m", cluster=cluster, devices=1, tokens=1e9, batch=65_536, length=2048))
    assert 0 < plan.step.mfu() < 1 and plan.days > 0 and plan.step.memory < plan.cluster.memory * GIB


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["plan", "llama3-8b", "devices=8", "tokens=1e11", "--json"])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.output)
    assert figures["device_hours"] == pytest.approx(figures["days_with_interruptions"] * 24 * 8)
    shown = CliRunner().invoke(app, ["plan", "llama3-8b", "devices=8", "tokens=1e11"])
    assert "effective training time" in shown.output and "TP × CP × PP × DP" in shown.output
    assert "a million answer tokens" in CliRunner().invoke(app, ["plan", "llama3-70b", "--serving"]).output
    assert "remedies.spares" in CliRunner().invoke(app, ["plan"]).output
    assert max(map(len, shown.output.splitlines())) <= 100
    shape = ["model.dim=512", "model.layers=4", "model.heads=8", "model.kv_heads=8", "model.ffn_dim=1024"]
    own = CliRunner().invoke(app, ["plan", *shape, "devices=1", "batch=65536", "tokens=1e9", "--json"])
    block = 4 * 512 * 512 + 3 * 512 * 1024 + 2 * 512
    assert json.loads(own.output)["parameters"] == 4 * block + 512 + 2 * 512 * 128_256
    with pytest.raises(UserError, match=r"no model 'llama3-9b'.*presets are llama3-8b"):
        make_plan(PlanSettings(model="llama3-9b"))
    with pytest.raises(UserError, match="did you mean 'devices'"):
        plan_settings("llama3-8b", ["devcies=8"])
    for word in ("clusters", "record"):
        missing = CliRunner().invoke(app, ["plan", "llama3-8b", f"{word}={tmp_path}/none.yaml"])
        assert missing.exit_code == 2 and "none.yaml can't be read: No such file" in missing.output.replace("\n", "")
    assert CliRunner().invoke(app, ["plan", "llama3-8b", "--serving", "--answer", "0"]).exit_code == 2
    alone = CliRunner().invoke(app, ["plan", "llama3-8b", "--laws", "ladder"])
    assert alone.exit_code == 2 and "--against ENTRY" in alone.output
    for word in ("tokens=inf", "tokens=nan", "devices=inf"):
        endless = CliRunner().invoke(app, ["plan", "llama3-8b", word])
        assert endless.exit_code == 2 and word in endless.output and "Traceback" not in endless.output
    served = CliRunner().invoke(app, ["plan", "llama3-70b", "devices=16", "--serving", "--json"])
    assert {one["devices"] for one in json.loads(served.output).values()} == {16}
    uneven = CliRunner().invoke(app, ["plan", *shape, "model.heads=7", "model.kv_heads=7", "devices=1"])
    assert uneven.exit_code == 2 and "is not a multiple of heads=7" in uneven.output.replace("\n", " ")
    with pytest.raises(UserError, match="'8' is no setting"):
        plan_settings("llama3-8b", ["8"])
