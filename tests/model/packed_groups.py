"""Groups of random tokens, a batch of them to train on, and the scores of a model on either form of it."""

import torch
from models import VOCAB_SIZE, WINDOW

from rm_plugin.data.encoding import EncodedGroup


def group(prefix: int, *rests: int) -> EncodedGroup:
    """`len(rests)` completions of `rests` random tokens after `prefix` shared ones; the ids follow from the sizes."""
    generator = torch.Generator().manual_seed(1000 * prefix + 10 * sum(rests) + len(rests))

    def draw(n):
        return torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist()

    shared = draw(prefix)
    return EncodedGroup([shared + draw(rest) for rest in rests])


def chain(*lengths: int) -> EncodedGroup:
    """Completions each of which is a prefix of the longer ones."""
    (longest,) = group(max(lengths), 1).input_ids
    return EncodedGroup([longest[:length] for length in lengths])


TRAINING_BATCH = [
    group(9, 5, 8),
    group(3 * WINDOW, 2, WINDOW + 4, 1),
    group(0, 6, 4),
    group(10, 1, 1, 1),
    chain(9, 12),
]


def texts(groups):
    return [ids for g in groups for ids in g.input_ids]


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@torch.no_grad()
def scores(model, batch) -> torch.Tensor:
    return model(**batch).logits.flatten()
