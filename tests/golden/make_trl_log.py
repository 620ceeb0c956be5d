"""The log of an over-optimising run of TRL, for machines without torch.

    OMP_NUM_THREADS=1 python -m tests.golden.make_trl_log path/to/stories260k

trains the Llama of TinyStories (260k parameters, karpathy/tinyllamas) with TRL's
`GRPOTrainer` on the count of happy words in one sentence, which is cheap to inflate.
`gold` has weight 0 in the reward, so TRL only logs it: happy words count twice at most
there, and what is said again counts against them. The log_history of trainer_state.json
lands beside this file, in trl_trainer_state.json, without clip ratios, which are 0.
"""

import json
import pathlib
import sys
import tempfile

import datasets
import torch
import transformers
import trl

HERE = pathlib.Path(__file__).resolve().parent
SEED, STEPS = 0, 100
HAPPY = frozenset("happy good nice fun love loved smiled great best friends".split())
OPENINGS = (
    "Once upon a time, there was a little girl named Lily.",
    "One day, a boy named Tim went to the park.",
    "Tom and his dog were sad.",
    "It was a rainy day and the cat",
    "The big bear lived in",
    "Mom said that they could not go out.",
    "Sue had a red ball.",
    "A bird sat on the tree and",
)


def words(text):
    """Lower-case words of a text, without punctuation."""
    kept = "".join(c if c.isalpha() else " " for c in text.lower())
    return kept.split()


def proxy(completions, **_):
    """How many happy words each completion has."""
    return [float(sum(w in HAPPY for w in words(text))) for text in completions]


def gold(completions, **_):
    """Happy words, two at most, times the square of the share of distinct words."""
    scores = []
    for text in completions:
        said = words(text)
        distinct = len(set(said)) / max(len(said), 1)
        happy = min(sum(w in HAPPY for w in said), 2)
        scores.append(happy * distinct**2)
    return scores


def main(model):
    transformers.set_seed(SEED)
    torch.set_num_threads(1)
    rows = datasets.Dataset.from_dict({"prompt": list(OPENINGS) * STEPS})
    folder = tempfile.mkdtemp()
    config = trl.GRPOConfig(
        output_dir=folder,
        seed=SEED,
        use_cpu=True,
        bf16=False,
        max_steps=STEPS,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=64,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        beta=0.01,
        reward_weights=[1.0, 0.0],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = "."  # a completion is one sentence, so that lengths differ
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=[proxy, gold],
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_state()
    state = json.loads((pathlib.Path(folder) / "trainer_state.json").read_text())
    write(state["log_history"])


def write(history):
    """The file: versions and seed, and a line a logged step, four digits a number."""
    history = [
        {k: v for k, v in row.items() if not k.startswith("clip_ratio/")}
        for row in history
    ]
    about = {
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": SEED,
    }
    lines = [
        json.dumps(
            {
                k: float(f"{v:.4g}") if isinstance(v, float) else v
                for k, v in row.items()
            },
            separators=(",", ":"),
        )
        for row in history
    ]
    text = json.dumps({"made_with": about})[:-1]
    text += ', "log_history": [\n' + ",\n".join(lines) + "\n]}\n"
    (HERE / "trl_trainer_state.json").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
