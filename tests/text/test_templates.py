from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kar.errors import TemplateError
from kar.store import json_sha
from kar.text.lint import lint, main
from kar.text.templates import load_template

REPO_PROMPTS = Path(__file__).parents[2] / "prompts"
VIEWS = ("user.preference", "item.facts")
Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(prompts_folder: Path) -> Edit:
    """edit(file, old, new) on the films domain; the old text must be there."""

    def change(name: str, old: str, new: str) -> None:
        path = prompts_folder / "films" / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def test_the_templates_that_kar_brings_have_no_fault() -> None:
    assert lint(REPO_PROMPTS) == []


@pytest.mark.parametrize("domain", ["movies", "books", "products", "news"])
def test_both_views_of_a_domain_speak_of_the_same_factors(domain: str) -> None:
    user, item = (load_template(REPO_PROMPTS, domain, view) for view in VIEWS)
    assert user.factors == item.factors
    for template in (user, item):
        prompt = template.sample()[-1]["content"]
        assert all(factor.name in prompt for factor in template.factors.factors)


@pytest.mark.parametrize("domain", ["movies", "books", "products", "news"])
def test_no_prompt_that_kar_brings_shows_attributes_of_the_user(domain: str) -> None:
    assert load_template(REPO_PROMPTS, domain, "user.preference").user_attributes == ()


def test_a_prompt_is_the_filled_template(prompts_folder: Path) -> None:
    messages = load_template(prompts_folder, "films", "user.preference").render(history="- Alien: 5 of 5 stars")
    assert messages == [
        {"role": "system", "content": "You describe taste."},
        {
            "role": "user",
            "content": "What does this person like in films? Points:\n- genre: kinds of film\n- mood\nAbout 60 words.\n"
            "<list>\n- Alien: 5 of 5 stars\n</list>",
        },
    ]


def test_without_a_system_text_no_system_message_is_sent(prompts_folder: Path) -> None:
    messages = load_template(prompts_folder, "films", "item.facts").render(title="Alien", text="Alien (1979)")
    assert [message["role"] for message in messages] == ["user"]


def test_template_syntax_in_a_title_stays_text(prompts_folder: Path) -> None:
    template = load_template(prompts_folder, "films", "item.facts")
    for title in ("{{ 7*7 }}", "{% for x in y %}", "{{ text }}", "{# note #}", "{{ ''.__class__.__mro__ }}"):
        assert f"<entry>\n{title}\n</entry>" in template.render(title="", text=title)[0]["content"]


def test_prompts_of_a_view_share_all_that_stands_before_the_subject(prompts_folder: Path) -> None:
    template = load_template(prompts_folder, "films", "user.preference")
    one, other = (template.render(history=h)[-1]["content"] for h in ("AAAA", "BBBB"))
    assert one.index("AAAA") == other.index("BBBB")
    assert one[: one.index("AAAA")] == other[: other.index("BBBB")]
    assert "genre" in one[: one.index("AAAA")]


WRONG = {
    "unknown key": ("side = ", "colour = 1\nside = ", "unknown key colour"),
    "unknown output key": ("words = 60", "words = 60\ntop_p = 1", "unknown key output.top_p"),
    "missing output": ("min_words = 10", "", "missing key output.min_words"),
    "unknown variable": ("{{ history }}", "{{ history }} {{ age }}", "user names age"),
    "variable of the other side": ("{{ history }}", "{{ history }} {{ title }}", "user names title"),
    "subject in the constant part": ("describe taste", "describe {{ history }}", "system names history"),
    "profile without user_attributes": ("{{ history }}", "{{ profile }} {{ history }}", "user names profile"),
    "user_attributes without profile": ("side = ", 'user_attributes = ["age"]\nside = ', "never names profile"),
    "subject before the factors": ("What does", "{{ history }} What does", "must stand before"),
    "no factors": ("{{ factors }}", "", "must stand before"),
    "nothing of the subject": ("{{ history }}", "", "user names none of ['history']"),
    "bad Jinja": ("{{ history }}", "{{ history }", "line 5"),
    "attribute of nothing": ("{{ history }}", "{{ history.nothing }}", "nothing"),
    "a way out of the sandbox": ("{{ history }}", "{{ history.__class__ }}", "unsafe"),
    "division": ("{{ history }}", "{{ 1 / 0 }}{{ history }}", "ZeroDivisionError"),
    "builtin": ("{{ history }}", "{{ range(9) }}{{ history }}", "user names range"),
    "view of another file": ('view = "user.preference"', 'view = "user.other"', "view is 'user.other'"),
    "side of the other": ('side = "user"', 'side = "item"', "side 'item'"),
    "body key": ("[output]", "[extra_body]\nmodel = 'x'\n[output]", "model are set elsewhere"),
}


@pytest.mark.parametrize(("old", "new", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_template_is_an_error_that_names_file_and_fault(prompts_folder: Path, edit: Edit, old: str, new: str, told: str) -> None:
    edit("user.preference.toml", old, new)
    with pytest.raises(TemplateError, match=r"user\.preference\.toml") as error:
        load_template(prompts_folder, "films", "user.preference")
    assert told in str(error.value)
    assert any(told in fault for fault in lint(prompts_folder)), "lint finds it too"


def test_an_unknown_variable_is_told_with_the_known_ones(prompts_folder: Path, edit: Edit) -> None:
    edit("item.facts.toml", "{{ text }}", "{{ text }} {{ director }}")
    with pytest.raises(TemplateError) as error:
        load_template(prompts_folder, "films", "item.facts")
    assert "item.facts.toml: user names director" in error.value.what
    assert error.value.do == "known here: item, items, verb, words, factors, factor_names, factor_keys, factor_words, title, text"


def test_a_view_without_a_template_is_an_error_that_names_the_views_there_are(prompts_folder: Path) -> None:
    with pytest.raises(TemplateError, match=r"views of this domain: item.facts, user.preference"):
        load_template(prompts_folder, "films", "item.tags")


def test_rendering_with_a_variable_of_no_view_is_an_error(prompts_folder: Path) -> None:
    with pytest.raises(TemplateError, match="takes"):
        load_template(prompts_folder, "films", "item.facts").render(text="x")


def test_the_profile_is_shown_only_where_the_template_asks_for_attributes(prompts_folder: Path, edit: Edit) -> None:
    edit("user.preference.toml", "side = ", 'user_attributes = ["occupation"]\nside = ')
    edit("user.preference.toml", "{{ history }}", "{{ profile }}\n{{ history }}")
    template = load_template(prompts_folder, "films", "user.preference")
    assert template.variables == ("history", "profile")
    assert "occupation: baker" in template.render(history="x", profile="occupation: baker")[-1]["content"]


CHANGES = {
    "a word": ("user.preference.toml", "describe taste", "describe the taste", {"user.preference"}),
    "the version": ("user.preference.toml", "version = 1", "version = 2", {"user.preference"}),
    "the temperature": ("item.facts.toml", "max_tokens = 120", "max_tokens = 120\ntemperature = 0.5", {"item.facts"}),
    "a factor's hint": ("factors.toml", "kinds of film", "kind", {"user.preference", "item.facts"}),
    "a comment": ("user.preference.toml", "side = ", "# a note\nside = ", set()),
    "a comment on the factors": ("factors.toml", 'verb = "rated"', 'verb = "rated" # a note', set()),
}


@pytest.mark.parametrize(("name", "old", "new", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_a_version_changes_with_what_shapes_the_request_and_with_nothing_else(
    prompts_folder: Path, edit: Edit, name: str, old: str, new: str, changed: set[str]
) -> None:
    before = {view: load_template(prompts_folder, "films", view).version for view in VIEWS}
    edit(name, old, new)
    after = {view: load_template(prompts_folder, "films", view).version for view in VIEWS}
    assert {view for view in VIEWS if before[view] != after[view]} == changed


def test_a_version_reads_as_id_version_and_digest(prompts_folder: Path) -> None:
    name, _, rest = load_template(prompts_folder, "films", "item.facts").version.partition("@")
    number, _, digest = rest.partition(":")
    assert (name, number, len(digest)) == ("films.item.facts", "1", 12)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("item.facts.toml", 'id = "films.item.facts"', 'id = "films.user.preference"', "is also that of"),
        ("item.facts.toml", "min_words = 10", "min_words = 100", "min_words 100 is more than words 60"),
        ("item.facts.toml", "max_tokens = 120", "max_tokens = 60", "60 tokens cannot hold 60 words"),
        ("user.preference.toml", "{{ factors }}", "{% if factors %}{% endif %}", "does not name the factors ['genre', 'mood']"),
    ],
)
def test_lint_finds_what_loading_lets_pass(prompts_folder: Path, edit: Edit, name: str, old: str, new: str, told: str) -> None:
    edit(name, old, new)
    (fault,) = lint(prompts_folder)
    assert told in fault


def test_lint_misses_no_view_and_no_folder(prompts_folder: Path, tmp_path: Path) -> None:
    (prompts_folder / "films" / "item.facts.toml").unlink()
    assert any("lacks item.facts.toml" in fault for fault in lint(prompts_folder))
    (prompts_folder / "empty").mkdir()
    assert any("empty has no templates" in fault for fault in lint(prompts_folder))
    assert lint(tmp_path / "nowhere") == [f"{tmp_path / 'nowhere'} holds no domain"]


def test_the_command_line_of_lint_ends_with_1_at_a_fault(prompts_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(REPO_PROMPTS)]) == 0
    (prompts_folder / "films" / "item.facts.toml").unlink()
    assert main([str(prompts_folder)]) == 1
    assert "lacks item.facts.toml" in capsys.readouterr().err
    assert main([]) == 2


# ---- the form of the answer

# what kar 0.1 asked: template version, and digest of the sample prompt. Another version asks everybody again.
ASKED = {
    "books item.facts": ("books.item.facts@1:0cdcf192a27c", "b45fd3144e2e0a10"),
    "books user.preference": ("books.user.preference@1:fad9f9038e8e", "a223bbb2de961115"),
    "movies item.facts": ("movies.item.facts@1:4d929bb7e025", "ada1c837ae9e4a1f"),
    "movies user.preference": ("movies.user.preference@1:d24ed3a009f9", "ae1afb741a3b804a"),
    "news item.facts": ("news.item.facts@1:882e957f16d1", "d3f46f0dc52b0a34"),
    "news user.preference": ("news.user.preference@1:2c8ae70c0c9b", "f0b09929d8eeb486"),
    "products item.facts": ("products.item.facts@1:6585726a1114", "a73683c90e55812e"),
    "products user.preference": ("products.user.preference@1:d7196a408e49", "702afcce1aacb07e"),
}
FORMS = """
[answer_form]
prose = "About {{ words }} words."
factors = "JSON with the keys {{ factor_keys }}, {{ factor_words }} words each."
"""


@pytest.mark.parametrize("name", ASKED)
def test_a_prompt_for_prose_is_byte_for_byte_what_was_asked_before_there_were_forms(name: str) -> None:
    template = load_template(REPO_PROMPTS, *name.split())
    assert template.form == "prose"
    assert (template.version, json_sha(template.sample())[:16]) == ASKED[name]


@pytest.fixture
def both_forms(prompts_folder: Path, edit: Edit) -> Path:
    """The films domain with words for either form in user.preference."""
    edit("user.preference.toml", "About {{ words }} words.", "{{ answer_form }}")
    edit("user.preference.toml", "[output]", FORMS + "[output]")
    return prompts_folder


def test_the_words_for_the_form_stand_where_the_template_says(both_forms: Path) -> None:
    prose, factors = (load_template(both_forms, "films", "user.preference", form) for form in ("prose", "factors"))
    words = [t.sample()[-1]["content"].split("\n<list>")[0].splitlines()[-1] for t in (prose, factors)]
    assert words == ["About 60 words.", "JSON with the keys genre, mood, 30 words each."]
    assert factors.schema["required"] == ["genre", "mood"]
    assert factors.output.max_tokens > prose.output.max_tokens == 100


def test_the_template_says_which_form_it_wants(both_forms: Path, edit: Edit) -> None:
    assert load_template(both_forms, "films", "user.preference").form == "prose"
    edit("user.preference.toml", "min_words = 10", 'min_words = 10\nform = "factors"')
    assert load_template(both_forms, "films", "user.preference").form == "factors"
    assert load_template(both_forms, "films", "user.preference", "prose").form == "prose"


def test_only_the_words_that_are_asked_make_the_version(both_forms: Path, edit: Edit) -> None:
    def versions() -> list[str]:
        return [load_template(both_forms, "films", "user.preference", form).version for form in ("prose", "factors")]  # type: ignore[arg-type]

    first = versions()
    assert first[0] != first[1]
    edit("user.preference.toml", "JSON with the keys", "One JSON object with the keys")
    second = versions()
    assert (second[0], second[1] != first[1]) == (first[0], True)
    edit("user.preference.toml", "About {{ words }} words.", "Some {{ words }} words.")
    assert versions()[1] == second[1]


def test_factors_need_words_that_ask_for_them(prompts_folder: Path) -> None:
    with pytest.raises(TemplateError, match="no words ask for them"):
        load_template(prompts_folder, "films", "item.facts", "factors")


def test_words_for_a_form_must_have_a_place(prompts_folder: Path, edit: Edit) -> None:
    edit("user.preference.toml", "[output]", FORMS + "[output]")
    with pytest.raises(TemplateError, match="answer_form }} 0 times"):
        load_template(prompts_folder, "films", "user.preference")


def test_a_hole_for_the_form_needs_words(prompts_folder: Path, edit: Edit) -> None:
    edit("user.preference.toml", "About {{ words }} words.", "{{ answer_form }}")
    with pytest.raises(TemplateError, match="answer_form, which nobody fills"):
        load_template(prompts_folder, "films", "user.preference")


def test_more_than_twelve_factors_are_not_asked_at_once(both_forms: Path) -> None:
    path = both_forms / "films" / "factors.toml"
    path.write_text(path.read_text() + "".join(f'[[factors]]\nname = "more {n}"\n' for n in range(11)))
    assert load_template(both_forms, "films", "user.preference").form == "prose"
    with pytest.raises(TemplateError, match="13 of them, at most 12"):
        load_template(both_forms, "films", "user.preference", "factors")


def test_the_words_for_factors_are_linted_as_the_others_are(both_forms: Path, edit: Edit) -> None:
    edit("factors.toml", 'name = "mood"', 'name = "mood and tone"')
    assert lint(both_forms) == []
    edit("user.preference.toml", "the keys {{ factor_keys }}", "some keys")
    assert [fault.split(": ", 1)[1] for fault in lint(both_forms)] == ["the prompt does not name the factors ['mood_and_tone']"]
    edit("user.preference.toml", "words each.", "words each. {{ unheard }}")
    assert any("unheard" in fault for fault in lint(both_forms))
