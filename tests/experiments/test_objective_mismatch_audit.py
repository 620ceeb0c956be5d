"""The audit of a log: where proxy and gold part, what it cost, what gave a warning."""

import dataclasses
import io
import json
import pathlib
import sys

import numpy as np
import pytest
import rich.console
from PIL import Image
from scipy import stats

from experiments.objective_mismatch import audit
from experiments.objective_mismatch.audit import (
    measures,
    monitors,
    page,
    picture,
    series,
    verdicts,
)
from rlhf_jax.evaluation import overoptimization

TRL = pathlib.Path(__file__).parents[1] / "golden" / "trl_trainer_state.json"
ALPHA, BETA = 1.5, 0.9  # gold peaks at d = 1.95
SETTINGS = {"threshold": monitors.THRESHOLD, "controls": (), "penalties": (0.5,)}


def made(**values):
    """A series over steps 0, 1, ... of these roles."""
    values = {role: np.asarray(x, float) for role, x in values.items()}
    count = len(values["proxy"])
    columns = {role: role for role in ("step", *values)}
    return series.Series("made", np.arange(count, dtype=float), values, "log", columns)


def of_gao(count=21, *, largest=16.0, noise=0.0):
    """A run whose gold follows Gao's form in √KL while the proxy is linear in it."""
    d = np.sqrt(np.linspace(0, largest, count))
    gold = ALPHA * d - BETA * d * np.log(np.maximum(d, 1e-12))
    gold += noise * np.random.default_rng(0).normal(size=count)
    return made(proxy=2 * d, gold=3 + gold, kl=d**2)


def of(one, **changes):
    return measures.of(one, **{**SETTINGS, **changes})


def audited(folder, *paths, console=None, **flags):
    console = console or rich.console.Console(file=io.StringIO())
    config = dataclasses.replace(
        audit.CONFIG,
        log=tuple(map(str, paths)),
        output=str(folder),
        **flags,
    )
    return audit.run(config, console=console)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Numbers


def test_a_run_of_gaos_form_is_read_as_such():
    one = of_gao()
    found = of(one)
    fit, peak = found["fit"], int(one.values["gold"].argmax())
    assert fit["alpha"] == pytest.approx(ALPHA) and fit["beta"] == pytest.approx(BETA)
    assert fit["r2"] == pytest.approx(1.0)
    assert fit["peak"] == pytest.approx(np.exp(ALPHA / BETA - 1))
    assert fit["extrapolation"]["error"] == pytest.approx(0.0, abs=1e-9)
    assert found["looks"]["peak_step"] == one.steps[peak]
    assert found["onset"]["step"] in one.steps[peak : peak + 2]
    assert found["peak_lag"] == peak - (len(one.steps) - 1)
    ordered = found["correlation"]
    assert ordered["before_peak"]["value"] == pytest.approx(1.0)
    assert ordered["after_peak"]["value"] == pytest.approx(-1.0)


def test_regret_is_the_gold_forgone():
    one = of_gao()
    gold, proxy, kl = (one.values[role] for role in ("gold", "proxy", "kl"))
    found = of(one)["regret"]
    beta = 0.5 * np.ptp(proxy) / np.ptp(kl)
    chosen = gold[(proxy - beta * kl).argmax()]
    assert found["best proxy"]["regret"] == pytest.approx(gold.max() - gold[-1])
    assert found["the last"]["regret"] == found["best proxy"]["regret"]
    assert found[f"best proxy − {beta:.2g}·KL"]["regret"] == gold.max() - chosen
    assert found["best gold (oracle)"]["regret"] == 0.0


def test_rewards_that_rise_together_do_not_part():
    rise = np.sqrt(np.arange(20.0))
    found = of(made(proxy=rise, gold=rise, kl=rise))
    assert found["onset"] is None and found["regret"]["best proxy"]["regret"] == 0
    assert found["correlation"]["levels"]["value"] == pytest.approx(1.0)
    assert verdicts.verdict(found).startswith("no onset: proxy and gold rose together")


def test_a_wiggle_within_its_error_is_no_onset():
    rise = np.arange(20.0)
    gold = rise.copy()
    gold[12:14] -= 3
    assert of(made(proxy=rise, gold=gold), error=0.1)["onset"] is not None
    assert of(made(proxy=rise, gold=gold), error=1.0)["onset"] is None
    logged = made(proxy=rise, gold=gold, error=np.full(20, 1.0))
    found = of(logged)
    assert found["onset"] is None and found["looks"]["error_from"] == "from the log"


def test_scatter_is_the_deviation_about_a_line():
    rng = np.random.default_rng(0)
    noisy = 3.0 * np.arange(2000) + 0.5 * rng.normal(size=2000)
    # The median of squares of moving triples is known to some 4% at this length.
    assert measures.scatter(noisy) == pytest.approx(0.5, rel=0.1)
    assert measures.scatter(np.arange(9.0)) == 0.0
    assert measures.scatter(np.array([0, 9, 0, 9.0])) == 0.0  # too few to tell


def test_flat_gold_of_a_long_log_has_an_onset_no_oftener_than_said():
    rng = np.random.default_rng(0)
    runs = [made(proxy=np.arange(25.0), gold=rng.normal(size=25)) for _ in range(200)]
    looks = [measures.look(one, 1.0) for one in runs]
    rate = np.mean([measures.onset(x, measures.DROP) is not None for x in looks])
    assert rate <= 0.02 + 4 * (0.02 * 0.98 / 200) ** 0.5


def test_a_long_log_is_averaged():
    one = of_gao(1000, noise=0.05)
    looks = measures.look(one)
    assert len(looks.steps) == measures.LOOKS and looks.each == 40
    np.testing.assert_allclose(looks.gold[3], one.values["gold"][120:160].mean())
    assert looks.errors[0] < 0.05
    given = measures.look(one, 0.4)
    np.testing.assert_allclose(given.errors, 0.4 / 40**0.5)


def test_gold_that_is_measured_seldom_is_compared_where_it_is():
    whole = of_gao(41)
    gold = np.full(41, np.nan)
    gold[1::4] = whole.values["gold"][1::4]
    proxy = whole.values["proxy"].copy()
    proxy[1::4] = np.nan  # and never at the same step
    looks = measures.look(made(proxy=proxy, gold=gold, kl=whole.values["kl"]))
    np.testing.assert_array_equal(looks.steps, np.arange(1, 41, 4))
    np.testing.assert_allclose(looks.proxy[3], (proxy[12] + proxy[14]) / 2)
    np.testing.assert_array_equal(looks.kl, whole.values["kl"][1::4])


def test_gold_at_two_steps_is_said_to_be_too_little():
    gold = [1.0, *[np.nan] * 8, 2.0]
    found = of(made(proxy=np.arange(10.0), gold=gold))
    assert found["gold"] is None
    assert found["notes"] == ["gold at 2 steps only: too few to be compared"]


def test_a_reward_that_never_moves_has_no_correlation_and_no_fit():
    found = of(made(proxy=np.ones(9), gold=np.ones(9), kl=np.zeros(9)))
    assert np.isnan(found["correlation"]["levels"]["value"])
    assert "two distances" in found["fit"]["reason"] and found["onset"] is None
    assert verdicts.verdict(found).startswith("the proxy itself gained nothing")


def test_length_accounts_for_a_reward_that_is_length():
    length = np.cumsum(np.random.default_rng(0).uniform(size=30))
    found = of(made(proxy=3 * length, length=length))["length"]
    assert found["share"] == pytest.approx(1.0)
    assert found["correlation"] == pytest.approx(1.0)
    still = of(made(proxy=length, length=np.ones(30)))["length"]
    assert np.isnan(still["share"]) and np.isnan(still["correlation"])


def test_correlations_are_scipys():
    one = of_gao(noise=0.3)
    found = of(one)["correlation"]
    proxy, gold = one.values["proxy"], one.values["gold"]
    expected = stats.spearmanr(proxy, gold).statistic
    assert found["levels"]["value"] == pytest.approx(expected)
    expected = stats.spearmanr(np.diff(proxy), np.diff(gold)).statistic
    assert found["differences"]["value"] == pytest.approx(expected)
    assert found["differences"]["n"] == 20


# Monitors


def wandering(jump, *, seed=0, count=40, at=25):
    rng = np.random.default_rng(seed)
    length = 50 + rng.normal(size=count)
    length[at:] += jump
    return made(proxy=np.arange(float(count)), length=length)


def test_a_monitor_that_jumps_gives_an_alarm_and_its_lead():
    found = monitors.alarms(wandering(20), 30.0, monitors.THRESHOLD)["length"]
    assert 25 <= found["step"] <= 28 and found["lead"] == 30 - found["step"]
    calm = monitors.alarms(wandering(0), 30.0, monitors.THRESHOLD)["length"]
    assert calm["step"] is None and calm["lead"] is None and calm["controls"] == 0


def test_controls_set_the_threshold():
    controls = [wandering(0, seed=seed) for seed in range(1, 21)]
    found = monitors.alarms(wandering(20), None, 1e9, controls)["length"]
    assert found["controls"] == 20 and found["threshold"] < 100
    assert 25 <= found["step"] <= 28
    late = [wandering(20, seed=seed) for seed in range(1, 21)]
    assert monitors.alarms(wandering(20), None, 0.0, late)["length"]["step"] is None


def test_a_monitor_of_few_looks_is_not_watched():
    assert monitors.of(made(proxy=np.arange(5.0), length=np.arange(5.0))) == {}


def test_kl_is_watched_by_its_rate():
    steps, rate = monitors.of(made(proxy=np.arange(9.0), kl=2 * np.arange(9.0)))[
        "kl_rate"
    ]
    np.testing.assert_array_equal(steps, np.arange(1, 9))
    np.testing.assert_array_equal(rate, 2.0)


# Sentences


@pytest.mark.parametrize(
    "gold, start",
    [
        ([0, 2, 4, 6, 8, 9, 7, 5, 3, 1], "proxy and gold part at step "),
        ([0, 2, 4, 6, 8, 9, 10, 11, 12, 13], "no onset: proxy and gold rose together"),
        ([5] * 10, "gold gained nothing beyond its error while the proxy rose"),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "proxy and gold part at step 0"),
    ],
)
def test_a_verdict_says_what_happened(gold, start):
    found = of(made(proxy=np.arange(10.0), gold=gold), error=0.1)
    assert verdicts.verdict(found).startswith(start)


def test_a_verdict_says_how_much_was_lost():
    gold = [0, 2, 4, 6, 8, 10, 8, 6, 5, 5]
    one = made(proxy=np.arange(10.0), gold=gold, kl=np.arange(10.0))
    said = verdicts.verdict(of(one, error=0.1))
    assert "step 6 (KL 6 nats a token): since then proxy 6 → 9, gold 8 → 5;" in said
    assert said.endswith("50% of what gold had gained is gone")


def test_gold_that_falls_once_the_proxy_has_collapsed_is_no_parting():
    gold = [0, 2, 4, 6, 8, 6, 4, 2, 0, 0]
    proxy = [0, 1, 2, 3, 4, 3, 2, 1, 0.5, 0.2]
    said = verdicts.verdict(of(made(proxy=proxy, gold=gold), error=0.1))
    assert said.startswith("gold fell from 8 at step 4, but not twice in a row while")


def test_without_gold_only_signs_are_promised():
    said = verdicts.verdict(of(wandering(20)))
    assert said.startswith("without gold mismatch itself cannot be seen")
    assert "first alarm: length at step 2" in said
    assert verdicts.verdict(of(wandering(0))).endswith("left its usual range")


# The command


def test_the_log_of_trl_is_audited_without_a_flag(tmp_path):
    console = rich.console.Console(file=io.StringIO(), width=300)
    results = audited(tmp_path, TRL, console=console)
    (found,) = results["series"]
    # Seen in the file: gold is best between steps 22 and 31, and 0.04 at the end.
    assert 20 < found["onset"]["step"] < 36
    assert found["onset"]["gold"][0] > 1.0 > 0.1 > found["onset"]["gold"][1]
    assert found["regret"]["best proxy"]["regret"] > 1.0
    assert found["correlation"]["before_peak"]["value"] > 0.9
    assert found["correlation"]["after_peak"]["value"] < -0.9
    assert found["alarms"]["length"]["step"] is not None
    shown = console.file.getvalue()
    assert (
        "gold=rewards/gold/mean" in shown and "proxy and gold part near step" in shown
    )
    report = (tmp_path / audit.PAGE).read_text()
    assert "| best proxy |" in report and f"({audit.PICTURE})" in report
    assert Image.open(tmp_path / audit.PICTURE).width > 1000
    kept = json.loads((tmp_path / audit.RESULTS).read_text())
    assert kept["series"][0]["onset"] == found["onset"]
    with pytest.raises(ValueError, match="holds results already"):
        audited(tmp_path, TRL)


def test_runs_of_ours_and_logs_share_a_report(tmp_path):
    rows = [
        {"method": "ppo", "world": 0, "seed": 0, "step": i, "eval/reward": i}
        | {"eval/gold": 5 - abs(i - 5.0), "drift/kl_initial": float(i)}
        for i in range(11)
    ]
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "metrics.jsonl", rows)
    plain = [{"step": i, "reward": i} for i in range(11)]
    log = write(tmp_path / "log.jsonl", plain)
    results = audited(tmp_path / "out", log, run=(str(tmp_path / "run"),))
    names = [one["name"] for one in results["series"]]
    assert names == ["PPO", "log.jsonl"]
    assert results["series"][0]["onset"] is not None
    said = "\n".join(page.said(results))
    assert "PPO: proxy and gold part at step 6 (KL 6 nats a sample)" in said


def test_series_beyond_the_picture_are_in_the_report(tmp_path, monkeypatch):
    parts, plain = of_gao(), made(proxy=np.arange(9.0))
    found = [plain] * 5 + [parts]
    drawn = []
    monkeypatch.setattr(
        picture, "_along_steps", lambda panel, one, _: drawn.append(one)
    )
    path = picture.draw(found, [of(one) for one in found], tmp_path / "a.png")
    assert path.exists() and len(drawn) == 4 and drawn[0] is parts


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["audit", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        audit.main()
    return stop.value.code


def test_ci_fails_on_an_onset_alone(tmp_path, monkeypatch, capsys):
    flags = ("--log", TRL, "--fail-on", "onset", "--output", tmp_path / "a")
    assert run_main(monkeypatch, *flags) == audit.FAILED == 3
    assert "proxy and gold part in trl_trainer_state.json" in capsys.readouterr().err
    rows = [{"step": i, "reward": i, "gold": i} for i in range(9)]
    log = write(tmp_path / "log.jsonl", rows)
    monkeypatch.setattr(
        sys, "argv", ["audit", "--log", str(log), "--fail-on", "onset", "--output",
                      str(tmp_path / "b")],
    )  # fmt: skip
    audit.main()


def test_ci_fails_on_an_alarm(tmp_path):
    rows = [
        {"step": i, "reward": i, "length": 50 + 40 * (i > 20) + i % 2}
        for i in range(40)
    ]
    log = write(tmp_path / "log.jsonl", rows)
    results = audited(tmp_path / "out", log, fail_on="alarm")
    config = dataclasses.replace(audit.CONFIG, fail_on="alarm")
    reason = audit.failure(config, results["series"])
    assert reason == "--fail-on alarm: a monitor gave an alarm in log.jsonl"
    assert audit.failure(audit.CONFIG, results["series"]) is None


def test_a_check_that_cannot_fail_is_refused(tmp_path):
    log = write(tmp_path / "log.jsonl", [{"step": i, "reward": i} for i in range(9)])
    with pytest.raises(ValueError, match="no series has gold, so that no onset"):
        audited(tmp_path / "out", log, fail_on="onset")
    with pytest.raises(ValueError, match="nothing that could give one was logged"):
        audited(tmp_path / "out", log, fail_on="alarm")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "--run or --log is needed"),
        ({"log": ("nowhere",)}, "there is no such file"),
        ({"log": ("nowhere",), "drop": -1.0}, "drop"),
        ({"log": ("nowhere",), "columns": ("gold",)}, "write role=column"),
    ],
)
def test_misuse_is_said_before_anything_is_read(flags, message):
    with pytest.raises(ValueError, match=message):
        audit.run(dataclasses.replace(audit.CONFIG, **flags))


def test_controls_are_read_as_logs_are(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"step": i, "reward": i, "length": 50 + rng.normal(), "seed": seed}
        for seed in range(12)
        for i in range(40)
    ]
    calm = write(tmp_path / "calm.jsonl", rows)
    jumps = [row | {"length": row["length"] + 30 * (row["step"] > 20)} for row in rows]
    log = write(tmp_path / "log.jsonl", [r for r in jumps if r["seed"] == 0])
    results = audited(
        tmp_path / "out", log, controls=(str(calm),), columns=("run=seed",)
    )
    (one,) = results["series"]
    assert results["controls"] == 12 and one["alarms"]["length"]["controls"] == 12
    assert 21 <= one["alarms"]["length"]["step"] <= 23


def test_the_fit_is_of_kl_up_to_where_estimates_hold():
    one = of_gao(31, largest=60.0)
    found = of(one)["fit"]
    assert found["n"] == int((one.values["kl"] <= measures.KL_FITTED).sum()) < 31
    gold = one.values["gold"][: found["n"]] - one.values["gold"][0]
    fit = overoptimization.fit_rl(np.sqrt(one.values["kl"][: found["n"]]), gold)
    assert (found["alpha"], found["beta"]) == (fit.alpha, fit.beta)
