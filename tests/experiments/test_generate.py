"""experiments.generate: flags reach the sampler, texts come out whole."""

import subprocess
import sys

import pytest
import small_recipes

from experiments import generate
from rlhf_jax import huggingface
from rlhf_jax.cli import sampled
from rlhf_jax.data import stop_tokens
from rlhf_jax.runtime import parallel

LONG = "word\t" * 60 + "\x0b\x0c end  \n\n:smile: [bold]last[/]"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, params, tokenizer), drawn at random, without a chat template."""
    with small_recipes.programs(tmp_path_factory.mktemp("programs")):
        folder = tmp_path_factory.mktemp("plain")
        yield huggingface.load(small_recipes.model(folder, template=False))


def written(loaded, **flags):
    asked = {"prompts": ["Say red", "no"], "temperature": 0.0, "devices": 1} | flags
    rows = generate.complete(model=loaded, max_new_tokens=12, **asked)
    return [row["completion"] for row in rows], [row["ended"] for row in rows]


def test_an_answer_ends_with_a_stop_string_and_keeps_it(loaded):
    free, _ = written(loaded)
    stop = next(letter for letter in free[0][1:] if letter.isascii())
    cut, ended = written(loaded, stop_strings=[stop])
    assert ended[0] and cut[0].endswith(stop) and stop not in cut[0][:-1]
    for whole, part, done in zip(free, cut, ended, strict=True):
        assert whole.startswith(part) and done == (stop in whole)
    assert len(cut[0]) < len(free[0])


def test_flags_reach_the_sampler(loaded):
    model, _, tokenizer = loaded
    flags = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    flags |= {"max_new_tokens": 9, "stop_strings": ("yes",)}
    config = generate.Config(**flags)
    _, draw = generate._prepare(config, ["a"], model, tokenizer)
    assert draw.stops == stop_tokens.matcher(tokenizer, flags.pop("stop_strings"))
    for name, value in flags.items():
        assert getattr(draw, name) == value
    plain = sampled.draws(generate.Config(), tokenizer)
    assert plain["stops"] is None and plain["min_p"] == 0.0


def test_answers_that_take_turns_are_the_same(loaded):
    """Two rows for ten answers: five take turns in each."""
    flags = {"temperature": 1.0, "samples": 5, "stop_strings": ["e"]}
    together, ended = written(loaded, **flags)
    assert len({len(text) for text in together}) > 2 and not all(ended)
    assert written(loaded, **flags, rows=2) == (together, ended)


@pytest.mark.parametrize(
    ("rows", "layout", "count", "turns"),
    [
        (32, parallel.data(1), 32, 1),
        (32, parallel.data(1), 33, 2),
        (32, parallel.data(4), 129, 5),
        (2, parallel.data(4), 9, 3),
        (2, parallel.layout("fsdp"), 9, 1),
    ],
)
def test_rows_hold_all_answers_in_turn(rows, layout, count, turns):
    assert generate._turns(generate.Config(rows=rows), layout, count) == turns


def test_texts_go_through_a_pipe_as_they_are(capsys):
    rows = [
        {"prompt": LONG, "completion": LONG, "ended": True},
        {
            "prompt": [{"role": "user", "content": "Q"}],
            "completion": "a",
            "ended": False,
        },
    ]
    generate.show(rows)
    assert capsys.readouterr().out == f"{LONG}\n{LONG}\n\nQ\na …\n\n"


@pytest.mark.slow
def test_a_reader_that_leaves_early_gets_no_traceback():
    call = (
        "from experiments import generate; "
        "generate.show([{'prompt': 'a' * 99, 'completion': 'b', 'ended': True}] * 9999)"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout.readline() == b"a" * 99 + b"\n"
    program.stdout.close()
    assert b"Traceback" not in program.stderr.read()
    assert program.wait() == 1


def test_a_system_message_without_a_template_is_refused_before_weights_are_read(
    tmp_path,
):
    small_recipes.tokenizer(tmp_path, template=False)  # beside which there is no model
    config = generate.Config(model=str(tmp_path), prompts=("a",), system="Be kind.")
    with pytest.raises(ValueError, match="--system 'Be kind.*has no chat template"):
        generate.answers(config, ["a"])


def test_prompts_that_lose_their_beginning_are_counted(loaded, capsys):
    texts = ["a" * 9, "a", "b" * 7]
    generate._say_cut(loaded[2], texts, 8)
    assert "1 of 3 prompts have more than 8 tokens" in capsys.readouterr().err
    generate._say_cut(loaded[2], texts, 9)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_new_tokens": 64}, "--max-new-tokens 64: the model's context is 64 tok"),
        (
            {"max_new_tokens": 40, "prompt_length": 25},
            "--max-new-tokens 40 and --prompt-length 25: the model's context is 64",
        ),
    ],
)
def test_answers_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        generate._length(generate.Config(**flags), 64)


def test_a_prompt_without_tokens_is_refused(loaded):
    with pytest.raises(ValueError, match="row 1: the prompt has no tokens"):
        generate.complete(model=loaded, prompts=["a", ""], max_new_tokens=4, devices=1)


def test_a_backslash_and_an_n_are_not_taken_for_a_line_break():
    config = generate.Config(model="m", prompts=("a",), stop_strings=("\\n\\nUser:",))
    with pytest.raises(ValueError, match=r"--stop-strings .*no line break; write \$"):
        generate.check(config)
