"""A workload through TRL's RLOO or GRPO, `transformers.generate` and a torch step.

Run by `peers` as a separate process, in a Python that has trl and torch.
"""

import copy
import pathlib
import tempfile

from experiments.throughput import worker

LEARNING_RATE = 1e-5
PACKAGES = ("trl", "transformers", "torch")


def main(channel, spec):
    """Times rounds of "iteration", "generate" and "train" on request."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(spec["policy"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["policy"])
    ids = tokenizer(spec["prompts"], return_tensors="pt")["input_ids"]
    if tuple(ids.shape) != (spec["rows"], spec["prompt_length"]):
        raise ValueError(f"prompts were encoded with shape {tuple(ids.shape)}")
    calls = {
        "generate": lambda: generate(model, ids, spec),
        "train": plain_step(copy.deepcopy(model), spec),
    }
    threads = torch.get_num_threads()
    channel.answer(versions=worker.versions(PACKAGES), threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer(model, tokenizer, spec, folder, rounds(channel, calls, spec)).train()


def generate(model, ids, spec):
    """Samples a rollout with `transformers`, from the whole vocabulary."""
    import torch

    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=spec["new_tokens"],
            min_new_tokens=spec["new_tokens"],
            eos_token_id=spec["eos"],
            pad_token_id=spec["pad"],
        )
    if out.shape[1] != spec["prompt_length"] + spec["new_tokens"]:
        raise ValueError(f"generate returned rows of {out.shape[1]} tokens")
    return out


def plain_step(model, spec):
    """An iteration's updates in plain torch, with nothing else around them."""
    import torch

    rows, new = spec["rows"], spec["new_tokens"]
    size = spec["shape"]["vocab_size"]
    tokens = torch.randint(2, size, (rows, spec["prompt_length"] + new))
    advantages = torch.randn(rows, 1)
    old = torch.full((rows, new), -float(torch.log(torch.tensor(size))))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
    )
    model.train()
    parts = spec["micro_batches"]
    part = rows // (spec["minibatches"] * parts)

    def step():
        for start in range(0, rows, part):
            chosen = slice(start, start + part)
            logits = model(tokens[chosen], logits_to_keep=new + 1).logits[:, :-1]
            logps = torch.log_softmax(logits.float(), -1)
            logps = logps.gather(-1, tokens[chosen, -new:, None])[..., 0]
            ratio = torch.exp(logps - old[chosen])
            clipped = ratio.clamp(0.8, 1.2) * advantages[chosen]
            loss = -torch.minimum(ratio * advantages[chosen], clipped).mean()
            (loss / parts).backward()
            if (start // part + 1) % parts:
                continue
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return step


def rounds(channel, calls, spec):
    """A callback that makes TRL's loop wait for each requested iteration."""
    import transformers

    class Rounds(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % spec["minibatches"] == 0:
                channel.rounds(calls, "iteration")
                self.clock = worker.Clock()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % spec["minibatches"] == 0:
                peak = worker.peak_bytes()
                channel.answer(**self.clock.read(), peak_bytes=peak)

    return Rounds()


def trainer(model, tokenizer, spec, folder, callback):
    """TRL's trainer with its defaults, except for the sizes; it writes nothing."""
    import datasets
    import trl

    named = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer)}
    named["grpo"] = trl.GRPOConfig, trl.GRPOTrainer
    config, train = named[spec["algorithm"]]
    new, updates, parts = spec["new_tokens"], spec["minibatches"], spec["micro_batches"]
    arguments = config(
        output_dir=str(pathlib.Path(folder) / "out"),
        per_device_train_batch_size=spec["rows"] // (updates * parts),
        gradient_accumulation_steps=parts,
        steps_per_generation=updates * parts,
        num_generations=spec["candidates"],
        max_completion_length=new,
        generation_kwargs={"min_new_tokens": new},
        learning_rate=LEARNING_RATE,
        max_steps=1_000_000,
        beta=0.05,
        disable_dropout=True,
        bf16=spec["dtype"] == "bfloat16",
        gradient_checkpointing=False,
        use_cpu=True,
        shuffle_dataset=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1_000_000,
        disable_tqdm=True,
    )
    prompts = spec["prompts"][: spec["rows"] // spec["candidates"]] * 64
    return train(
        model=model,
        **rewards(tokenizer, spec),
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[callback],
        peft_config=adapter(spec),
    )


def rewards(tokenizer, spec):
    """The reward model of a workload, or the rule of one that has none."""
    import transformers

    if spec["reward"] is None:
        return {"reward_funcs": [rule]}
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    model = load(spec["reward"])
    return {"reward_funcs": [model], "reward_processing_classes": [tokenizer]}


def rule(completion_ids, **_):
    """How many tokens are even, as in `workloads.rule`."""
    return [float(sum(token % 2 == 0 for token in row)) for row in completion_ids]


def adapter(spec):
    """PEFT's LoRA of the rank, on queries and values, None where all are trained."""
    if not spec["rank"]:
        return None
    import peft

    return peft.LoraConfig(
        r=spec["rank"],
        lora_alpha=2 * spec["rank"],
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )


if __name__ == "__main__":
    worker.run(main)
