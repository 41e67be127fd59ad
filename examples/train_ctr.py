"""Train a small CTR model on your examples, without and with the knowledge columns of a release, and compare.

A downstream job: it imports nothing of kar but `kar.release`. Copy it and put your own ranker in the place of `Ranker`.

    python examples/train_ctr.py --release $KAR_HOME/movielens-100k/published --examples example.parquet --clock evidence

The examples are a Parquet file with the columns user_id, item_id, event_at (UTC), label (0 or 1), split (train, valid,
test) and, if there is one, position (how many events the user had before). The release is joined to each example as of
its own time, so nothing is served that was not there then, and an example without knowledge keeps its row: a mask says so.
A lease keeps the releases that it reads from being collected, however long it trains. A study is repeated with --as-of: by the release
that was served at that instant, or with --release-id by that very one, whatever has been published since.

Which split may be used. The adapted vectors come from an adaptor that was trained jointly with a ranker on the *train*
examples of kar's own split. Use that very split: with another one, its training examples may stand in your test set.
For a split of your own take kind="knowledge" (the encoder's vectors, which have seen no label) and a projection of your own.

What a user liked and disliked comes by the same join, if the release holds it: the views user.liked_… and user.disliked_… are means of the
adapted vectors over the user's history. They know the labels of those events, so the join serves them only to examples that are newer.

Both models are the same but for the knowledge: embeddings of the ids (one unseen in training gets the "unknown" place,
which is trained by dropping ids at random) and a multi-layer perceptron; the epoch is chosen on valid.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import kar.release

Side = Literal["user", "item"]
SPLITS = ("train", "valid", "test")
COLUMNS = ("user_id", "item_id", "event_at", "label", "split")
EMBEDDING_DIM = 16
DROPPED_ID_SHARE = 0.1


class JobError(Exception):
    """Something about the input that the user can mend."""


@dataclass
class Batch:
    """B examples as tensors: ids [B], base [B, 1], knowledge [B, K] (K = 0 without; masks among the columns), label [B]."""

    user: Tensor
    item: Tensor
    base: Tensor
    user_knowledge: Tensor
    item_knowledge: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Tensor) -> Batch:
        return Batch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Ranker(nn.Module):
    """Embeddings of the ids, knowledge beside them, and a perceptron over both and over their products."""

    def __init__(self, user_count: int, item_count: int, user_width: int, item_width: int) -> None:
        super().__init__()
        self.user = nn.Embedding(user_count, EMBEDDING_DIM)
        self.item = nn.Embedding(item_count, EMBEDDING_DIM)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.01)
        # one projection a side into the embedding's width, so that knowledge of user and item can meet in a product
        self.user_knowledge = nn.Linear(user_width, EMBEDDING_DIM) if user_width else None
        self.item_knowledge = nn.Linear(item_width, EMBEDDING_DIM) if item_width else None
        fields = 2 + (user_width > 0) + (item_width > 0)
        width = fields * EMBEDDING_DIM + fields * (fields - 1) // 2 * EMBEDDING_DIM + 1
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        user_B, item_B = (self._drop(batch.user), self._drop(batch.item)) if self.training else (batch.user, batch.item)
        fields = [self.user(user_B), self.item(item_B)]
        if self.user_knowledge is not None:
            fields.append(self.user_knowledge(batch.user_knowledge))
        if self.item_knowledge is not None:
            fields.append(self.item_knowledge(batch.item_knowledge))
        products = [a * b for place, a in enumerate(fields) for b in fields[place + 1 :]]
        logits: Tensor = self.layers(torch.cat([*fields, *products, batch.base], dim=1)).squeeze(1)
        return logits

    @staticmethod
    def _drop(ids_B: Tensor) -> Tensor:
        """Some ids become the unknown one (0), so that it means something when a new user or item comes."""
        return torch.where(torch.rand(ids_B.shape) < DROPPED_ID_SHARE, torch.zeros_like(ids_B), ids_B)


def read_examples(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise JobError(f"there is no file {path}; name the examples with --examples") from error
    except pa.ArrowException as error:
        raise JobError(f"{path} cannot be read as Parquet: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise JobError(f"{path} lacks the columns {missing}; it holds {table.column_names}")
    labels = set(pc.unique(table.column("label")).to_pylist())
    if not labels <= {0, 1}:
        raise JobError(f"the labels in {path} are {sorted(map(str, labels))}; they must be 0 or 1")
    for split in SPLITS:
        chosen = table.column("label").filter(pc.equal(table.column("split"), split))
        if len(pc.unique(chosen)) < 2:
            raise JobError(f"split {split!r} of {path} has {len(chosen)} examples and not both labels; AUC has no meaning there")
    return table


def numbered(ids: pa.ChunkedArray, is_train: np.ndarray) -> tuple[Tensor, int]:
    """Ids to embedding rows 1 … n by their place among the training examples' ids, 0 for all others; and n + 1."""
    words = ids.combine_chunks().dictionary_encode()
    codes = words.indices.to_numpy()
    row_of = np.zeros(len(words.dictionary), np.int64)
    seen = np.unique(codes[is_train])
    row_of[seen] = 1 + np.arange(len(seen))
    return torch.from_numpy(row_of[codes]), len(seen) + 1


def knowledge_columns(joined: kar.release.Joined, side: Side) -> tuple[Tensor, dict[str, np.ndarray]]:
    """All views of one side beside each other, each followed by its mask: float32 [N, K]; and the masks by view."""
    columns, masks = [], {}
    for view in joined.views(side):
        vectors_NA, is_missing = joined.vectors(side, view)
        columns += [vectors_NA, is_missing[:, None].astype(np.float32)]
        masks[view] = is_missing
    matrix = np.concatenate(columns, axis=1) if columns else np.zeros((len(joined), 0), np.float32)
    return torch.from_numpy(matrix), masks


def train(data: dict[str, Batch], counts: tuple[int, int], epochs: int, patience: int, seed: int, batch_size: int) -> np.ndarray:
    """Train, keep the epoch with the best AUC on valid, and return the probabilities of the test examples."""
    torch.manual_seed(seed)
    model = Ranker(*counts, data["train"].user_knowledge.shape[1], data["train"].item_knowledge.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    best, best_test, waited = -1.0, np.empty(0), 0
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(len(data["train"])), batch_size):
            batch = data["train"].take(rows)
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        valid = auc(data["valid"].label.numpy(), predict(model, data["valid"]))
        if valid > best:
            best, best_test, waited = valid, predict(model, data["test"]), 0
        else:
            waited += 1
            if waited >= patience:
                break
    return best_test


def predict(model: Ranker, batch: Batch) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        found: np.ndarray = model(batch).sigmoid().double().numpy()
    return found


def auc(label: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve, ties counted half; `weight` says how often each example occurs."""
    weight = np.ones(len(label)) if weight is None else weight
    _, place = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(place, weight * label), np.bincount(place, weight * (1 - label))
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def logloss(label: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> float:
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(np.average(-(label * np.log(p) + (1 - label) * np.log(1 - p)), weights=weight))


def interval(
    label: np.ndarray, without: np.ndarray, with_: np.ndarray, users: np.ndarray, seed: int, resamples: int = 500
) -> dict[str, tuple[float, float]]:
    """95 % of the difference with − without, users drawn with replacement; both models judged on the same draw."""
    draw = np.random.default_rng(seed)
    count = int(users.max()) + 1
    found: dict[str, list[float]] = {"AUC": [], "LogLoss": []}
    for _ in range(resamples):
        weight = np.bincount(draw.integers(0, count, count), minlength=count)[users].astype(np.float64)
        found["AUC"].append(auc(label, with_, weight) - auc(label, without, weight))
        found["LogLoss"].append(logloss(label, with_, weight) - logloss(label, without, weight))
    return {name: (float(np.nanquantile(values, 0.025)), float(np.nanquantile(values, 0.975))) for name, values in found.items()}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--release", type=place, required=True, help="a published folder, $KAR_HOME/<scenario>/published, or s3://bucket/prefix"
    )
    parser.add_argument("--examples", type=Path, required=True, help="Parquet: user_id, item_id, event_at, label, split[, position]")
    parser.add_argument(
        "--clock",
        choices=("published", "evidence"),
        default="published",
        help="published: what was served at each example's time (production). evidence: what is served now, where its prompts saw "
        "nothing newer than the example (studies on old data, where everything was published later)",
    )
    parser.add_argument(
        "--as-of",
        type=instant,
        help="with --clock evidence: the release that was served at this instant, such as 2026-11-20T06:00+00:00, instead of now",
    )
    parser.add_argument(
        "--release-id",
        metavar="ID",
        help="with --clock evidence: this very release of the published folder, such as the one whose event started this job, instead of "
        "the one served now",
    )
    parser.add_argument(
        "--lease-s", type=float, default=600, help="seconds that the releases stay if this job dies; renewed while it lives; 0: no lease"
    )
    parser.add_argument("--epochs", type=int, default=12, help="at most so many; the best on valid is kept (default 12)")
    parser.add_argument("--patience", type=int, default=2, help="epochs without a better AUC on valid before stopping (default 2)")
    parser.add_argument("--batch-size", type=int, default=1024, help="examples per step (default 1024)")
    parser.add_argument("--seed", type=int, default=1, help="of weights, shuffling and resampling (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more do not help a model this small (default 1)")
    args = parser.parse_args(argv)
    if args.as_of is not None and args.release_id is not None:
        parser.error("--as-of and --release-id both choose the release: say one of them")
    for option, chosen in (("--as-of", args.as_of), ("--release-id", args.release_id)):
        if chosen is not None and args.clock != "evidence":
            parser.error(
                f"{option} chooses one release: say --clock evidence; --clock published takes for each example the one of its time"
            )
    if args.release_id is not None and (not args.release_id or Path(args.release_id).name != args.release_id):
        parser.error(f"--release-id {args.release_id!r} is no release's name, such as 2026-11-19-0123456789ab")
    return args


def place(text: str) -> str | Path:
    """A folder, or an address in an object store."""
    return text if "://" in text else Path(text)


def instant(text: str) -> dt.datetime:
    """An instant with its time zone; argparse names what is none."""
    found = dt.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("no time zone")
    return found


def joined_with(args: argparse.Namespace, examples: pa.Table) -> kar.release.Joined:
    """The examples with what may serve each."""
    if args.release_id is not None:
        if isinstance(args.release, Path) and not (args.release / "releases" / args.release_id).is_dir():
            raise JobError(f"{args.release} holds no release {args.release_id} (any more); kar release list says which there are")
        named = kar.release.open(f"{args.release}/releases/{args.release_id}")
        return kar.release.join(named.path, examples, clock=args.clock)
    if args.as_of is None:
        return kar.release.join(args.release, examples, clock=args.clock)
    return kar.release.join(kar.release.open(args.release, as_of=args.as_of).path, examples, clock=args.clock)


def run(args: argparse.Namespace) -> None:
    examples = read_examples(args.examples)
    joined = joined_with(args, examples)
    with contextlib.ExitStack() as leases:
        for release in joined.releases if args.lease_s > 0 else ():
            leases.enter_context(release.lease(args.lease_s, "examples/train_ctr.py"))
        compare(args, examples, joined)


def compare(args: argparse.Namespace, examples: pa.Table, joined: kar.release.Joined) -> None:
    """Train without and with knowledge, and print what came of it."""
    started = time.monotonic()
    torch.set_num_threads(max(1, args.threads))
    split = examples.column("split").to_numpy()
    (user, user_count), (item, item_count) = (numbered(examples.column(f"{side}_id"), split == "train") for side in ("user", "item"))
    position = examples.column("position").to_numpy().astype(np.float32) if "position" in examples.column_names else np.zeros(len(split))
    base = torch.from_numpy(np.log1p(position).astype(np.float32))[:, None]
    label = torch.from_numpy(examples.column("label").to_numpy().astype(np.float32))
    (user_k, user_masks), (item_k, item_masks) = knowledge_columns(joined, "user"), knowledge_columns(joined, "item")
    nothing = torch.zeros((len(split), 0))
    scores = {}
    for name, whole in (
        ("without", Batch(user, item, base, nothing, nothing, label)),
        ("with", Batch(user, item, base, user_k, item_k, label)),
    ):
        data = {part: whole.take(torch.from_numpy(np.flatnonzero(split == part))) for part in SPLITS}
        scores[name] = train(data, (user_count, item_count), args.epochs, args.patience, args.seed, args.batch_size)
    is_test = split == "test"
    users = examples.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy()[is_test]
    users = np.unique(users, return_inverse=True)[1]
    show(args, joined, split, {**user_masks, **item_masks}, label.numpy()[is_test], scores, users, time.monotonic() - started)


def show(
    args: argparse.Namespace,
    joined: kar.release.Joined,
    split: np.ndarray,
    masks: dict[str, np.ndarray],
    label: np.ndarray,
    scores: dict[str, np.ndarray],
    users: np.ndarray,
    seconds: float,
) -> None:
    is_test = split == "test"
    last = joined.releases[-1]
    ranges = interval(label, scores["without"], scores["with"], users, args.seed)
    print(
        f"release    {last.id}"
        + (f" and {len(joined.releases) - 1} before it" if len(joined.releases) > 1 else "")
        + f", space {last.space_id}"
    )
    print(f"clock      {args.clock}; knowledge has seen interactions up to {last.data_cutoff or 'none'}")
    print(f"examples   {', '.join(f'{part} {int((split == part).sum()):,}' for part in SPLITS)}")
    covered = ", ".join(f"{view} {1 - mask[is_test].mean():.1%}" for view, mask in masks.items())
    print(f"coverage   of the test examples: {covered or 'the release holds no views'}\n")
    print(f"{'test':<12}{'AUC':>10}{'LogLoss':>10}")
    for name, score in scores.items():
        print(f"{name:<12}{auc(label, score):>10.4f}{logloss(label, score):>10.4f}")
    gain = {"AUC": auc(label, scores["with"]) - auc(label, scores["without"])}
    gain["LogLoss"] = logloss(label, scores["with"]) - logloss(label, scores["without"])
    print(f"{'difference':<12}{gain['AUC']:>+10.4f}{gain['LogLoss']:>+10.4f}")
    for name, (low, high) in ranges.items():
        print(f"  {name:<8} 95 % interval [{low:+.4f}, {high:+.4f}], paired bootstrap over {len(np.unique(users)):,} users")
    print(f"\n{verdict(masks, is_test, ranges['AUC'], args.clock)} ({seconds:.0f} s)")


def verdict(masks: dict[str, np.ndarray], is_test: np.ndarray, auc_range: tuple[float, float], clock: str) -> str:
    if not any((~mask[is_test]).any() for mask in masks.values()):
        hint = " Everything was published later; for a study on old data: --clock evidence." if clock == "published" else ""
        return "No test example may use any knowledge, so the two models differ by chance alone." + hint
    if auc_range[0] > 0:
        return "With knowledge this job ranks better: the interval of the AUC lies above 0."
    if auc_range[1] < 0:
        return "With knowledge this job ranks worse: the interval of the AUC lies below 0."
    return "No difference in AUC that the interval tells from chance."


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        run(args)
    except (JobError, kar.release.ReleaseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
