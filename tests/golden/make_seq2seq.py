"""A tiny translator in torch and what it says, for machines without torch.

    python -m tests.golden.make_seq2seq

writes seq2seq.npz beside this file: logits and features of `batch()`, in float32, by
`nn.GRU`, `nn.GRUCell` and a loop written from the description of the paper. Parameters
follow from their names, by `make.tensor`. The version that made the file is in it.
"""

import pathlib

import numpy as np

try:
    from golden import make
except ImportError:  # as a program, from the root of the repository
    from tests.golden import make

FILE = pathlib.Path(__file__).resolve().parent / "seq2seq.npz"
SOURCE_VOCAB, TARGET_VOCAB, E, H, S, T = 11, 13, 6, 8, 5, 4
BOS = 2
SHAPES = {
    "enc.emb.weight": (SOURCE_VOCAB, E),
    "enc.rnn.weight_ih_l0": (3 * H, E),
    "enc.rnn.weight_hh_l0": (3 * H, H),
    "enc.rnn.bias_ih_l0": (3 * H,),
    "enc.rnn.bias_hh_l0": (3 * H,),
    "dec.emb.weight": (TARGET_VOCAB, E),
    "dec.cell.weight_ih": (3 * H, E + H),
    "dec.cell.weight_hh": (3 * H, H),
    "dec.cell.bias_ih": (3 * H,),
    "dec.cell.bias_hh": (3 * H,),
    "dec.attention.key.weight": (H, H),
    "dec.attention.combine.weight": (H, 2 * H),
    "dec.out.weight": (TARGET_VOCAB, H),
    "dec.out.bias": (TARGET_VOCAB,),
}


def tensors():
    """Parameters under torch's names; padding is embedded as 0, by `padding_idx`."""
    made = {name: 2 * make.tensor(f"{name}.", shape) for name, shape in SHAPES.items()}
    for side in ("enc", "dec"):
        made[f"{side}.emb.weight"][0] = 0.0
    return made


def batch():
    """Source, its mask and target: full, padded on the left, padded on the right."""
    rng = np.random.default_rng(0)
    source = rng.integers(1, SOURCE_VOCAB, (3, S))
    target = rng.integers(0, TARGET_VOCAB, (3, T))
    mask = np.array([[1] * S, [0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    return source, mask, target


def answers():
    """What torch says: logits [3, T, V] and features [3, T, E + H]."""
    import torch

    made = {name: torch.tensor(x) for name, x in tensors().items()}
    encoder = torch.nn.GRU(E, H, batch_first=True)
    cell = torch.nn.GRUCell(E + H, H)
    _fill(encoder, "enc.rnn.", made)
    _fill(cell, "dec.cell.", made)
    source, mask, target = (torch.tensor(x) for x in batch())
    logits, features = [], []
    with torch.no_grad():
        for words, valid, row in zip(source, mask, target, strict=True):
            read = encoder(made["enc.emb.weight"][words[valid == 1]][None])[0][0]
            said, seen = _write(cell, read, row, made)
            logits.append(said)
            features.append(seen)
    return torch.stack(logits).numpy(), torch.stack(features).numpy()


def _fill(module, prefix, made):
    names = {name for name, _ in module.named_parameters()}
    module.load_state_dict({name: made[prefix + name] for name in names})


def _write(cell, read, row, made):
    """One row, token by token: read [S, H], row [T] → logits [T, V], features."""
    import torch

    state, feed, token = read.mean(0), torch.zeros(H), BOS
    logits, features = [], []
    for follower in row:
        fed = torch.cat([made["dec.emb.weight"][token], feed])
        state = cell(fed[None], state[None])[0]
        scores = read @ (made["dec.attention.key.weight"] @ state)
        context = torch.softmax(scores, 0) @ read
        both = torch.cat([context, state])
        feed = torch.tanh(made["dec.attention.combine.weight"] @ both)
        logits.append(made["dec.out.weight"] @ feed + made["dec.out.bias"])
        features.append(fed)
        token = follower
    return torch.stack(logits), torch.stack(features)


def main():
    import torch

    logits, features = answers()
    version = f"torch {torch.__version__}"
    np.savez_compressed(FILE, version=version, logits=logits, features=features)


if __name__ == "__main__":
    main()
