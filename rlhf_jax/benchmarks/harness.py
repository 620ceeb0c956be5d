"""EleutherAI's lm-evaluation-harness with our models: any of its tasks, without torch.

    results = harness.evaluate(model, params, tokenizer, ["arc_easy"], limit=100)
    results["results"]["arc_easy"]["acc_norm,none"]

Its library is an extra: pip install 'rlhf_jax[eval]'. Tasks are downloaded by it; files
on disk become a task by a YAML file of one's own, in the folder `include`:

    task: quiz
    dataset_path: json
    dataset_kwargs: {data_files: {test: /path/to/quiz.jsonl}}
    output_type: multiple_choice
    test_split: test
    doc_to_text: "{{question}}"
    doc_to_choice: "{{choices}}"
    doc_to_target: label
    metric_list: [{metric: acc}, {metric: acc_norm}]
"""

import os

import numpy as np

from rlhf_jax.benchmarks import generations, programs
from rlhf_jax.data import tokenization
from rlhf_jax.runtime import parallel
from rlhf_jax.types import Prompts, Tokens

try:
    import lm_eval
    from lm_eval import tasks as lm_tasks
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
except ImportError as error:
    raise ImportError(
        "benchmarks.harness needs lm-evaluation-harness: pip install 'rlhf_jax[eval]'"
    ) from error

_NEW_TOKENS = 256  # of a generation, where the task does not say


def evaluate(
    model, params, tokenizer, tasks, *, include=None, layout=None, chat=False, **options
):
    """What `lm_eval.simple_evaluate` returns: results, and samples item by item.

    Args:
      tasks: names of tasks of the harness, or of the folder `include`.
      include: a folder of YAML tasks. The harness's own, which it takes 10 s to list,
        are then known only if a name is not in the folder.
      layout: the devices, by default all of this host.
      chat: prompts are written with the tokenizer's chat template.
      options: others of `lm_eval.simple_evaluate`: num_fewshot, limit, log_samples, ...
    Raises ValueError for a task of no such name.
    """
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ValueError("chat=True: the tokenizer has no chat template")
    # Its bootstrap would fork processes, and JAX has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    return lm_eval.simple_evaluate(
        Adapter(model, params, tokenizer, layout=layout),
        tasks=list(tasks),
        task_manager=_manager(tasks, include),
        apply_chat_template=chat,
        **options,
    )


class Adapter(TemplateLM):
    """A decoder as the harness's tasks ask it, in batches by width.

    It reads a text as the harness's own `hf` model does: with the special tokens that
    the tokenizer puts before it; log-likelihoods and generations agree with that one.
    """

    def __init__(self, model, params, tokenizer, *, layout=None):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.layout = parallel.layout() if layout is None else layout
        self.params = self.layout.put(params)

    @property
    def eot_token_id(self):
        return tokenization.eos_id(self.tokenizer)

    @property
    def prefix_token_id(self):
        return tokenization.prefix_id(self.tokenizer)

    @property
    def max_length(self):
        return self.model.config.max_length

    @property
    def tokenizer_name(self):
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        """Ids of a text. By default with special tokens, unless it begins with BOS."""
        if add_special_tokens is None:
            first = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not string.startswith(first)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        """The text of a conversation; an unfinished answer is left open."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
        """[(log π(continuation | context) in nats, would greedy decoding write it?)] of
        requests (texts or None, ids of the context, ids of the continuation)."""
        if not requests:
            return []
        room = self.max_length + 1  # the last token is not read
        rows = [(context + ids)[-room:] for _, context, ids in requests]
        tokens, mask = _padded(rows)
        counts = np.array([len(ids) for _, _, ids in requests])
        if counts.max() >= room:
            raise ValueError(
                f"a continuation of {counts.max()} tokens exceeds the model's context "
                f"of {self.max_length}"
            )
        starts = mask.sum(-1) - counts
        targets = mask * (np.arange(tokens.shape[1]) >= starts[:, None])
        right, totals = programs.score(
            self.model, self.params, Tokens(tokens, mask, targets), layout=self.layout
        )
        found = list(zip(totals.tolist(), right.tolist(), strict=True))
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """Log-likelihoods of whole texts in nats, in windows of the context."""
        windows, owners = [], []
        for i, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(i)
        totals = [total for total, _ in self._loglikelihood_tokens(windows)]
        sums = np.bincount(owners, totals, minlength=len(requests)).tolist()
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests, disable_tqdm=False):
        """Texts that follow contexts, up to a stop string; greedy unless asked."""
        groups = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        texts = [""] * len(requests)
        for indices in groups.values():
            asked = requests[indices[0]].args[1]
            contexts = [requests[i].args[0] for i in indices]
            for i, text in zip(indices, self._write(contexts, asked), strict=True):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return texts

    def _write(self, contexts, asked):
        stops = asked.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        new = min(_new_tokens(asked), self.max_length - 1)
        config = generations.greedy(self.tokenizer, new, stops, **_sampled(asked))
        room = self.max_length - new
        prompts = [self.tok_encode(text)[-room:] for text in contexts]
        prompts = [ids or [self.prefix_token_id] for ids in prompts]
        written = programs.complete(
            self.model, self.params, Prompts(*_padded(prompts)), config=config,
            layout=self.layout,
        )  # fmt: skip
        texts = tokenization.texts(self.tokenizer, *written)
        return [generations.cut(text, stops) for text in texts]


def _manager(tasks, include):
    """The harness's tasks, or a folder's where it has all that are asked for."""
    if include is not None:
        found = lm_tasks.TaskManager(include_path=include, include_defaults=False)
        if set(tasks) <= set(found.all_tasks):
            return found
    found = lm_tasks.TaskManager(include_path=include)
    missing = [name for name in tasks if not found.match_tasks([name])]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: neither tasks of the harness nor of the folder "
            f"{include}; `lm_eval ls tasks` lists the first"
        )
    return found


def _padded(rows):
    """(tokens [R, T], mask [R, T]) of lists of ids, padded on the right."""
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask != 0] = np.concatenate(rows)
    return tokens, mask


def _new_tokens(asked):
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return int(next((asked[k] for k in names if asked.get(k)), _NEW_TOKENS))


def _sampled(asked):
    """Fields of `sampling.Config`: none for greedy decoding, the default."""
    temperature = float(asked.get("temperature") or 0.0)
    if not asked.get("do_sample", temperature > 0):
        return {}
    fields = {name: asked[name] for name in ("top_k", "top_p") if name in asked}
    return {"temperature": temperature or 1.0, **fields}
