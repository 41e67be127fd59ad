from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import SettingsError, TemplateError
from kar.settings import Settings
from kar.text.lint import lint
from kar.text.variants import Split, load_splits, point

SUBJECTS = st.lists(st.text(max_size=8), min_size=1, max_size=30, unique=True)
SHARES = st.floats(0, 1)


def split(share: float, salt: str = "s") -> Split:
    """Whichever the two templates are: the split looks at their number only."""
    return Split("item.facts", ("own", "variant"), share, salt)  # type: ignore[arg-type]


@given(SUBJECTS, SHARES, st.randoms(use_true_random=False))
def test_whose_template_it_is_depends_on_nobody_else(subjects: list[str], share: float, draw: Any) -> None:
    whole = dict(zip(subjects, split(share).of(pa.array(subjects)).tolist(), strict=True))
    shuffled = list(subjects)
    draw.shuffle(shuffled)
    assert dict(zip(shuffled, split(share).of(pa.array(shuffled)).tolist(), strict=True)) == whole
    assert {s: int(split(share).of(pa.array([s]))[0]) for s in subjects} == whole


@given(SUBJECTS, SHARES, SHARES)
def test_a_larger_share_takes_some_more_and_gives_none_back(subjects: list[str], one: float, two: float) -> None:
    few, many = (split(share).of(pa.array(subjects)) for share in sorted((one, two)))
    assert (few <= many).all()
    assert split(0.0).of(pa.array(subjects)).sum() == 0
    assert split(1.0).of(pa.array(subjects)).sum() == len(subjects)


def test_a_share_is_a_share_and_another_salt_is_another_draw() -> None:
    subjects = pa.array([str(n) for n in range(10_000)])
    one, other = split(0.3).of(subjects), split(0.3, "t").of(subjects)
    assert one.mean() == pytest.approx(0.3, abs=0.02)
    assert (one & other).mean() == pytest.approx(0.09, abs=0.015), "the two draws are independent"
    assert point("s", "7") == 0.7345845912764534, "it is the same on every machine and for ever"


def variant(folder: Path, name: str, **changes: str) -> None:
    text = (folder / "films" / "item.facts.toml").read_text().replace('id = "films.item.facts"', 'id = "films.item.facts.b"')
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "films" / f"{name}.toml").write_text(text)


def settings(make: Callable[..., Settings], folder: Path, **sections: Any) -> Settings:
    split = {"variants": {"item.facts": {"template": "item.facts.b", "share": 0.5}}}
    return make(**{"prompts": {"folder": str(folder), **split}, **sections})


def test_a_variant_is_a_template_beside_the_view_s_own(prompts_folder: Path, settings_of: Callable[..., Settings]) -> None:
    variant(prompts_folder, "item.facts.b", Describe="Praise")
    own = load_splits(settings(settings_of, prompts_folder))
    assert [[t.id for t in s.templates] for s in own] == [["films.user.preference"], ["films.item.facts", "films.item.facts.b"]]
    assert {t.view for t in own[1].templates} == {"item.facts"}
    assert own[1].templates[0].version != own[1].templates[1].version
    assert lint(prompts_folder) == []


def test_lint_reads_variants_too(prompts_folder: Path) -> None:
    variant(prompts_folder, "item.facts.b", words="odd_words")
    (fault,) = lint(prompts_folder)
    assert "item.facts.b.toml" in fault
    variant(prompts_folder, "item.facts.b")
    path = prompts_folder / "films" / "item.facts.b.toml"
    path.write_text(path.read_text().replace("films.item.facts.b", "films.item.facts"))
    assert any("is also that of" in fault for fault in lint(prompts_folder))


def test_a_variant_that_is_not_there_or_answers_another_view_is_named(prompts_folder: Path, settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(TemplateError, match=r"'item\.facts\.b' has no template"):
        load_splits(settings(settings_of, prompts_folder))
    user = (prompts_folder / "films" / "user.preference.toml").read_text()
    (prompts_folder / "films" / "item.facts.b.toml").write_text(user)
    with pytest.raises(TemplateError, match=r"item\.facts\.b\.toml: view is 'user\.preference'"):
        load_splits(settings(settings_of, prompts_folder))


def test_a_variant_of_an_imported_view_is_named(prompts_folder: Path, settings_of: Callable[..., Settings]) -> None:
    variant(prompts_folder, "item.facts.b")
    with pytest.raises(SettingsError, match=r"prompts\.variants names item\.facts, which is not asked"):
        load_splits(settings(settings_of, prompts_folder, knowledge={"imports": {"item.facts": "x.jsonl"}}))
