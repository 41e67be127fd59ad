"""Where item embeddings start: by chance as usual, or as the principal components of the items' knowledge vectors.

Shape suffixes: X rows of the embedding table · I items with a known id and knowledge · T width of a knowledge vector
                Y width of all item kinds together · D embedding width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kar.model.batches import Kind, TrainingData
from kar.model.vocabulary import UNKNOWN

_ROWS = 65_536


@torch.no_grad()
def from_knowledge(embedding_XD: Tensor, data: TrainingData, kinds: Sequence[Kind]) -> None:
    """Start the embeddings of items that have knowledge as its first D principal components, in place.

    Scaled by one number to the standard deviation that the table has, so that distances keep their proportions. Items without
    knowledge, the code of unknown items (whatever the vectors of held-out items say) and all other fields start as they were. With
    fewer components than D, the last columns do too. Several kinds of item stand side by side, a kind that an item lacks at its mean.

    Source: LLM-ESR, arXiv 2405.20646, which starts its item embeddings so; the scale is ours.

    Args:
        embedding_XD: on the CPU.
        kinds: the arm's.
    """
    row_per_kind = [(kind, _row_of_code(kind, data)) for kind in kinds if kind.side == "item"]
    if not row_per_kind:
        return
    code_I = torch.stack([row_X > 0 for _, row_X in row_per_kind]).any(dim=0).nonzero().squeeze(1)
    vectors_IY = torch.cat([_centred(kind, row_X[code_I]) for kind, row_X in row_per_kind], dim=1)
    component_YD = _components(vectors_IY, embedding_XD.shape[1])
    if component_YD.shape[1] == 0:
        return
    start_ID = vectors_IY @ component_YD
    start_ID *= embedding_XD.std() / start_ID.square().mean().sqrt()
    embedding_XD[code_I, : start_ID.shape[1]] = start_ID


def _row_of_code(kind: Kind, data: TrainingData) -> Tensor:
    """[codes of item ids] each known item's row of the kind's vectors, 0 where it has none; from the examples and the histories."""
    row_X = torch.zeros(data.fields.sizes["item_id"], dtype=torch.int64)
    pairs = [(data.single_ES[:, 0], kind.row_E)]
    if kind.row_V is not None:
        pairs.append((data.event_KV[0], kind.row_V))
    for code, row in pairs:
        has_both = (row > 0) & (code != UNKNOWN)
        row_X[code[has_both].long().cpu()] = row[has_both].long().cpu()  # an item has one row, however often it stands here
    return row_X


def _centred(kind: Kind, row_I: Tensor) -> Tensor:
    """[I, T] the items' vectors less their mean; zeros for an item without."""
    vectors_IT = kind.vectors_RT.cpu()[row_I]
    has_one_I1 = (row_I > 0)[:, None]
    mean_T = vectors_IT.sum(dim=0) / has_one_I1.sum().clamp(min=1)
    return torch.where(has_one_I1, vectors_IT - mean_T, 0.0)


def _components(vectors_IY: Tensor, count: int) -> Tensor:
    """[Y, at most `count`] the directions of most variance, first things first, in float64 inside; fewer if the vectors have fewer.

    A direction's sign, which is arbitrary, is such that its largest entry is positive.
    """
    moment_YY = torch.zeros(vectors_IY.shape[1], vectors_IY.shape[1], dtype=torch.float64)
    for chunk in torch.split(vectors_IY, _ROWS):
        moment_YY += (chunk.t() @ chunk).double()
    variance_Y, direction_YY = torch.linalg.eigh(moment_YY)  # ascending
    is_real_Y = variance_Y > 1e-6 * variance_Y[-1].clamp(min=1e-30)
    found_YD = direction_YY[:, is_real_Y].flip(1)[:, :count]
    largest_D = found_YD.gather(0, found_YD.abs().argmax(dim=0, keepdim=True)).sign()
    component_YD: Tensor = (found_YD * largest_D).float()
    return component_YD
