"""What alignment cost a model that exists: measured, reported, averaged, written."""

import dataclasses
import io
import json

import chex
import jax
import numpy as np
import pytest
import rich.console
import small_recipes
import tiny_models
import transformers

from experiments.alignment_tax import two_models
from experiments.alignment_tax.two_models import front, merges, write
from rlhf_jax import averaging, huggingface, merging
from rlhf_jax.benchmarks import suites
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.runtime import parallel

WORDS = small_recipes.WORDS
QUIZ = [
    {"question": f"Is the {w} {v} cat old?", "choices": ["yes", "no"], "label": i % 2}
    for v in WORDS[:2]
    for i, w in enumerate(WORDS)
]
REWARDS = """
def letters(prompts, completions, points, **columns):
    assert len(points) == len(prompts) == len(completions)
    assert all(isinstance(text, str) for text in (*prompts, *completions))
    return [float(text.count("e")) - 0.01 * len(text) for text in completions]
"""
SMALL = two_models.Hma(blocks=2, draws=8, keep=4, rows=2, epochs=1, learning_rate=0.3)


def network(words, **changes):
    sizes = {"width": 16, "layers": 2, "heads": 2, "max_length": 64, **changes}
    return decoder.Decoder(model_config.llama(vocab_size=len(words), **sizes))


def shaken(params, size=0.05, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + np.float32(size) * rng.normal(size=x.shape), params
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models, an adapter, strangers, a suite, prompts, a reward."""
    home = tmp_path_factory.mktemp("two")
    words = small_recipes.tokenizer(home / "words", template=False)
    model = network(words)
    params = tiny_models.draw(model)
    after = jax.tree.map(lambda x: x.astype(np.float32), shaken(params))
    huggingface.save(home / "before", model, params, words)
    huggingface.save(home / "after", model, after, words)
    wide = network(words, width=32)
    huggingface.save(home / "wide", wide, tiny_models.draw(wide), words)
    gpt = decoder.Decoder(
        model_config.gpt2(
            vocab_size=len(words), width=16, layers=2, heads=2, max_length=64
        )
    )
    huggingface.save(home / "gpt", gpt, tiny_models.draw(gpt), words)
    scorer = heads.Classifier(model.config, 1)
    huggingface.save(home / "scorer", scorer, tiny_models.draw(scorer), words)
    for name, net in (("adapter", model), ("unfit", wide)):
        of = lora.Config(rank=2, alpha=4.0)
        shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 1), int))
        made = lora.init(
            shapes["params"], jax.random.key(0), rank=2, targets=of.targets
        )
        base = str(home / "before")
        hf_adapters.save(home / name, net, shaken(made, 0.3), of, base=base)
    other = small_recipes.tokenizer(home / "other", template=True)
    shape = network(other)
    huggingface.save(home / "chat", shape, tiny_models.draw(shape), other)
    swapped = small_recipes.tokenizer(home / "swapped", template=False)
    vocabulary = json.loads(swapped.backend_tokenizer.to_str())
    entries = vocabulary["model"]["vocab"]
    entries["a"], entries["b"] = entries["b"], entries["a"]
    backend = swapped.backend_tokenizer.from_str(json.dumps(vocabulary))
    renamed = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=words.eos_token
    )
    huggingface.save(home / "renamed", model, after, renamed)
    small_recipes.lines(home / "quiz.jsonl", QUIZ)
    small_recipes.lines(home / "unanswered.jsonl", [{"question": "Who?"}])
    asked = [{"prompt": f"Say {w}:", "points": i} for i, w in enumerate(WORDS[:6])]
    small_recipes.lines(home / "prompts.jsonl", asked)
    small_recipes.lines(home / "texts.jsonl", [{"text": f"a {w} cat"} for w in WORDS])
    (home / "letters_rewards.py").write_text(REWARDS)
    return home


@pytest.fixture(autouse=True)
def in_process(monkeypatch, home):
    small_recipes.share(monkeypatch)
    monkeypatch.chdir(home)


def flags(home, after="after", **changes):
    plain = {"before": str(home / "before"), "after": str(home / after), "devices": 1}
    return dataclasses.replace(two_models.CONFIG, **{**plain, **changes})


def run(home, **changes):
    """(results, what was printed)."""
    screen = io.StringIO()
    console = rich.console.Console(file=screen, width=200)
    return two_models.run(flags(home, **changes), console=console), screen.getvalue()


@pytest.fixture(scope="module")
def both(home):
    """(model, before, after, tokenizer)."""
    model, before, tokenizer = huggingface.load(home / "before")
    return model, before, huggingface.load(home / "after")[1], tokenizer


# The whole command


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """A run of everything, with its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_recipes.share(monkeypatch)
        monkeypatch.chdir(home)
        folder = tmp_path_factory.mktemp("whole")
        results, printed = run(
            home,
            suites=(str(home / "quiz.jsonl"),),
            text=str(home / "texts.jsonl"),
            prompts=str(home / "prompts.jsonl"),
            reward="letters_rewards:letters",
            samples=2,
            max_new_tokens=6,
            weights=(0.5, 0.8),
            beyond=(1.25,),
            densities=(0.5,),
            hma=SMALL,
            write=str(folder / "model"),
            method="hma_0.8",
            output=str(folder / "report"),
        )
    return results, printed, folder


def test_every_point_is_measured_on_the_same_items(whole):
    results, _, folder = whole
    names = [point["name"] for point in results["points"]]
    assert names == [
        *("before", "after", "ma_0.5", "ma_0.8", "hma_0.5", "hma_0.8", "beyond_1.25"),
        *("ties_0.5", "dare_0.5", "della_0.5", "breadcrumbs_0.5", "graft_0.5"),
    ]
    kept = json.loads((folder / "report" / "results.json").read_text())
    for point in kept["points"]:
        items = point["items"]
        assert len(items["quiz.jsonl"]) == len(QUIZ)
        assert len(items["reward"]) == len(items["kl"]) == 6
        assert np.mean(items["quiz.jsonl"]) == pytest.approx(point["together"])
        assert np.mean(items["reward"]) == pytest.approx(point["reward"])
        nll = np.sum(items["text_nll"]) / np.sum(items["text_tokens"])
        assert nll == pytest.approx(point["text_nll"])
    before, after = kept["points"][:2]
    assert before["kl"] == pytest.approx(0, abs=1e-5) and after["kl"] > 0.01
    assert kept["reward"]["value"] == pytest.approx(after["reward"] - before["reward"])


def test_the_page_shows_what_was_measured(whole):
    results, printed, folder = whole
    page = (folder / "report" / "report.md").read_text()
    for text in ("quiz.jsonl", "MA 0.8", "HMA 0.5", "graft 0.5", "mean reward", "MiB"):
        assert text in page
    assert (folder / "report" / "front.png").stat().st_size > 10_000
    assert "no tax to buy back" in page and "no tax to buy back" in printed
    assert results["advice"]["point"] is None
    assert all(point.get("returned") is None for point in results["points"])


def test_the_picture_has_a_panel_for_each_suite_and_for_human_text(whole, tmp_path):
    results = whole[0]
    panels = front.panels(results)
    assert [p.title for p in panels] == ["quiz.jsonl", "NLL of human text"]
    after = results["points"][1]
    assert [p.value(after) for p in panels] == [after["together"], after["text_nll"]]
    assert [p.corners["reward"] for p in panels] == ["↗ better", "↘ better"]
    unread = {**results, "text": None}
    assert [p.title for p in front.panels(unread)] == ["quiz.jsonl"]
    more = {
        **results,
        "lost": {**results["lost"], "other": results["lost"]["quiz.jsonl"]},
    }
    assert front.panels(more)[0].title == "all questions"


def test_ratios_of_heterogeneous_averages_move_and_keep_their_mean(whole):
    found = whole[0]["about"]["hma"]["hma_0.8"]
    ratios = [found[f"ratio_{k}"] for k in range(2)]
    assert np.mean(ratios) == pytest.approx(0.8, abs=1e-5)
    assert found["moved"] > 1e-3 and found["nll"] < found["nll_uniform"]


def test_what_is_written_is_what_was_measured(whole, home, both):
    results, printed, folder = whole
    model, params, tokenizer = huggingface.load(folder / "model")
    named = results["about"]["hma"]["hma_0.8"]
    low = averaging.interpolate(both[1], both[2], named["ratio_0"])
    got = params["layers"]["mlp"]["up"]["kernel"][0]
    expected = low["layers"]["mlp"]["up"]["kernel"][0]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    asked = suites.read([str(home / "quiz.jsonl")], count=200)
    rows = suites.tokens(asked, tokenizer, length=64)
    layout = parallel.layout("data", 1)
    measured = suites.measure(model, params, rows, layout=layout)["quiz.jsonl"]
    point = next(p for p in results["points"] if p["name"] == "hma_0.8")
    assert list(suites.scores(measured)) == point["items"]["quiz.jsonl"]
    described = transformers.AutoConfig.from_pretrained(folder / "model")
    assert described.model_type == "llama" and "wrote" in printed


# Points


def test_the_ends_of_the_line_are_the_two_models(home, both):
    model, before, after, tokenizer = both
    asked = suites.read([str(home / "quiz.jsonl")], count=200)
    rows = suites.tokens(asked, tokenizer, length=64)
    layout = parallel.layout("data", 1)
    for weight, params in ((0.0, before), (1.0, after)):
        end = merges.interpolate(weight)(before, after)
        chex.assert_trees_all_equal(end, params)
        one, two = (
            suites.measure(model, x, rows, layout=layout)["quiz.jsonl"]
            for x in (end, params)
        )
        np.testing.assert_array_equal(one.outputs, two.outputs)


@pytest.mark.parametrize("name", ["ties", "dare", "della", "breadcrumbs", "graft"])
def test_a_merge_that_keeps_everything_is_the_aligned_model(both, name):
    _, before, after, _ = both
    merged = merges.named(f"{name}_1").make(before, after)
    chex.assert_trees_all_close(merged, after, rtol=1e-5, atol=1e-6)


def test_merges_tensor_by_tensor_are_those_of_the_whole_tree(both):
    _, before, after, _ = both
    vector = averaging.task_vector(before, after)
    stacked = {name: int(name == "layers") for name in before}
    whole = merging.ties([vector], [1.0], density=0.3, stacked=stacked)
    expected = averaging.add_vectors(before, [whole], [1.0])
    found = merges.named("ties_0.3").make(before, after)
    chex.assert_trees_all_equal(found, expected)


def test_random_merges_are_the_same_every_time(both):
    _, before, after, _ = both
    one, two = (merges.named("dare_0.4").make(before, after) for _ in range(2))
    chex.assert_trees_all_equal(one, two)
    kept = np.mean(
        one["layers"]["mlp"]["up"]["kernel"] != before["layers"]["mlp"]["up"]["kernel"]
    )
    count = before["layers"]["mlp"]["up"]["kernel"].size
    assert abs(kept - 0.4) < 4 * (0.24 / count) ** 0.5


# Writing


@pytest.mark.parametrize("weight", [0.8, 1.25])
def test_streamed_and_in_memory_are_equal_bit_for_bit(home, tmp_path, weight):
    for name, streamed in (("memory", False), ("disk", True)):
        run(home, write=str(tmp_path / name), weight=weight, streamed=streamed)
    same_files(tmp_path / "memory", tmp_path / "disk")


def test_a_real_average_is_streamed_bit_for_bit(data_folder, tmp_path, home):
    source = data_folder / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip(f"no model at {source}")
    model, params, tokenizer = huggingface.load(source)
    huggingface.save(tmp_path / "after", model, shaken(params), tokenizer)
    both = {"before": str(source), "after": str(tmp_path / "after")}
    for name, streamed in (("memory", False), ("disk", True)):
        written = {"write": str(tmp_path / name), "weight": 0.8, "streamed": streamed}
        assert run(home, **both, **written)[0] is None
    same_files(tmp_path / "memory", tmp_path / "disk")
    _, found, _ = huggingface.load(tmp_path / "disk")
    expected = averaging.interpolate(
        params, huggingface.load(tmp_path / "after")[1], 0.8
    )
    chex.assert_trees_all_equal(found, expected)


def same_files(one, two):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_without_room_for_three_models_the_average_is_streamed(
    home, tmp_path, monkeypatch
):
    monkeypatch.setattr(write.host, "available_memory", lambda: 1000)
    monkeypatch.setattr(write.comparable, "load", None)
    _, printed = run(home, write=str(tmp_path / "model"), weight=0.5)
    assert "written tensor by tensor" in printed
    assert huggingface.load(tmp_path / "model")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_that_is_stopped_leaves_no_half_written_directory(
    home, tmp_path, monkeypatch, streamed
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write.huggingface.directories.weights, "_write_files", stop)
    with pytest.raises(KeyboardInterrupt):
        run(home, write=str(tmp_path / "model"), weight=0.5, streamed=streamed)
    assert list(tmp_path.iterdir()) == []


# Adapters


def test_an_adapter_is_merged_into_its_base(home, tmp_path, both):
    run(home, after="adapter", write=str(tmp_path / "model"), weight=1.0)
    model, params, _ = huggingface.load(tmp_path / "model")
    factors, config = hf_adapters.load(home / "adapter", model)
    merged = lora.merge(both[1], factors, scale=config.scale)
    chex.assert_trees_all_equal(params, merged)
    assert not np.array_equal(
        merged["layers"]["attention"]["query"]["kernel"],
        both[1]["layers"]["attention"]["query"]["kernel"],
    )


def test_an_adapter_of_another_name_is_taken_where_it_fits(home, tmp_path):
    where = {"before": str(home / "after"), "after": "adapter"}
    _, printed = run(home, write=str(tmp_path / "model"), weight=0.5, **where)
    assert f"names {home / 'before'} as its base" in printed


# Misuse


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"before": ""}, "--before is needed"),
        ({"suites": ()}, "name data sets with right answers"),
        ({"after": "before"}, "--before and --after are both"),
        ({"after": "gpt"}, "is of family llama, --after"),
        ({"after": "wide"}, "width 16 against 32"),
        ({"after": "renamed"}, "differ, first in 'a'"),
        ({"after": "chat"}, "vocab_size"),
        ({"after": "scorer"}, "is a classifier, not a language model"),
        ({"after": "unfit"}, "does not fit --before"),
        ({"before": "adapter"}, "is an adapter: give the base model"),
        ({"after": "none/such/model"}, "no model directory"),
        ({"suites": ("unanswered.jsonl",)}, "none of them with right answers"),
        ({"suites": ("quiz.jsonl",), "chat": True}, "no chat template"),
        ({"reward": "x:y"}, "a reward is read off samples"),
        ({"prompts": "none.txt"}, "there is no such file"),
        ({"prompts": "prompts.jsonl", "reward": "no_such_module:f"}, "no module"),
        ({"weights": (0.5, 1.5)}, "must be a number above 0 and below 1"),
        ({"densities": (0.2, 0.2)}, "stands twice"),
        ({"write": "before"}, "is one of the two models"),
        ({"write": "."}, "holds something other than a model"),
        ({"weight": 0.5}, "name the folder to write"),
        ({"write": "new", "weight": 0.5, "method": "ma_0.2"}, "leave one out"),
        ({"write": "new", "method": "tie_0.2"}, "--method tie_0.2: name a family"),
        ({"write": "new", "method": "hma_0.2"}, "--method hma_0.2: its ratios"),
        (
            {"write": "new", "method": "hma_0.2", "suites": ()},
            "fitted in a run that measures",
        ),
        ({"write": "new", "method": "ties_0.2", "streamed": True}, "plain averages"),
        (
            {"write": "new", "weight": 0.5, "streamed": True, "after": "adapter"},
            "is an adapter, which is merged in memory",
        ),
    ],
)
def test_misuse_is_one_line_before_weights_are_read(home, monkeypatch, changes, says):
    monkeypatch.setattr(two_models.comparable, "load", None)
    asked = {"suites": ("quiz.jsonl",), **changes}
    for name in ("before", "after"):
        if asked.get(name):
            asked = {**asked, name: str(home / asked[name])}
    with pytest.raises(ValueError) as error:
        run(home, **asked)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (home / "new").exists()


def test_reading_how_much_memory_is_held_leaves_arrays_as_they_are():
    params = parallel.data(1).put({"kernel": np.ones((2, 3), np.float32)})
    found = write.held(params)
    assert found["model_mib"] == 24 / 2**20 and found["peak_mib"] > 1
    assert params["kernel"].devices() == {jax.local_devices()[0]}
