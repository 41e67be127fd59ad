"""Prompt templates: strict TOML files, rendered in a Jinja2 sandbox.

A template has two texts. `system` is constant: it may name the domain's variables only. `user` begins with what is
constant too (the task, the factors) and ends with the subject's own part, so that every prompt of a view shares its
beginning and a server's prefix cache pays off; `load_template` holds files to that.

    domain variables    item · items · verb · words · factors (one a line) · factor_names (one line)
                        factor_keys (JSON keys, one line) · factor_words (about how long the text of one factor is)
    answer_form         the words under [answer_form] for the form in which the answer is asked for, prose or factors
    user variables      history (one event a line, oldest first) · profile (only with user_attributes)
    item variables      title · text (what the tables know: title, attributes, description or reviews)
                        neighbours (only with `neighbours`: the items that stand beside it, one a line, the nearest first)

A template lies in prompts/<domain>/, or, where it speaks of the domain through these variables alone, in prompts/any/, which serves every
domain that has none of its own for the view.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kar.errors import TemplateError
from kar.settings.schema import Form
from kar.store import json_sha
from kar.text import structured
from kar.text.factors import FILE, Factors, Message, load_factors, read_toml, strict

DOMAIN_VARIABLES = ("item", "items", "verb", "words", "factors", "factor_names", "factor_keys", "factor_words")
SUBJECT_VARIABLES = {"user": ("history",), "item": ("title", "text")}
ANY = "any"
"""Folder of the templates that serve every domain."""
OWN_KEYS = frozenset({"model", "messages", "max_tokens", "temperature"})  # of the request body; a template's extra_body may not set them
_LATER_KEYS = ("neighbours", "uses_factors")  # a template without them keeps the digest that it had before they were there
_ANSWER_FORM = re.compile(r"\{\{\s*answer_form\s*\}\}")
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.globals.clear()  # no range, no lipsum: a template names its variables and nothing else
_SAMPLE = {
    "history": "- A first one: 4 of 5 stars\n- A second one: 2 of 5 stars",
    "profile": "occupation: librarian",
    "title": "A first one",
    "text": "A first one. genre: drama",
    "neighbours": "- A second one. genre: comedy\n- A third one. genre: drama",
}


class OutputRules(BaseModel):
    """[output]

    Args:
        words: about how long the answer should be; the variable `words`.
        max_tokens: most tokens of an answer.
        min_words: an answer with fewer is refused as too short.
        temperature: 0 is greedy: the same prompt gives the same answer.
        form: what the template wants: prose, or factors, one text for each. The settings' prompts.form goes before it, and
            a server that cannot be held to a schema is asked for prose.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    words: int = Field(ge=5)
    max_tokens: int = Field(ge=16)
    min_words: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    form: Form = "prose"


class AnswerForm(BaseModel):
    """[answer_form]: the words that ask for either form; `{{ answer_form }}` in the user text stands for them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prose: str = Field(min_length=1)
    factors: str = Field(min_length=1)


class TemplateFile(BaseModel):
    """The keys of prompts/<domain>/<view>.toml.

    Args:
        user_attributes: attributes of the user that `profile` shows.
        neighbours: most neighbours of the item that `neighbours` shows; 0: none.
        uses_factors: false: the view asks for no facet in particular, as a paraphrase does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9_.-]+$")
    version: int = Field(ge=1)
    view: str = Field(pattern=r"^(user|item)\.[a-z0-9_]+$")
    side: Literal["user", "item"]
    user_attributes: tuple[str, ...] = ()
    neighbours: int = Field(0, ge=0, le=20)
    uses_factors: bool = True
    system: str = ""
    user: str = Field(min_length=1)
    output: OutputRules
    answer_form: AnswerForm | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @field_validator("extra_body")
    @classmethod
    def _own_keys_stay(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OWN_KEYS & set(value)):
            raise ValueError(f"{', '.join(taken)} are set elsewhere (settings.llm, [output])")
        return value


class Template:
    """A loaded template with its domain's factors. Loading has checked it, so rendering does not fail on a variable.

    Args:
        form: in which the answer is asked for; None: as the file wants it.
    """

    def __init__(self, file: TemplateFile, factors: Factors, path: Path, form: Form | None = None) -> None:
        self.file, self.factors, self.path = file, factors, path
        self.id, self.view, self.side, self.form = file.id, file.view, file.side, form or file.output.form
        self.user_attributes, self.neighbours, self.extra_body = file.user_attributes, file.neighbours, file.extra_body
        self.keys = structured.factor_keys(factors)
        self.factor_words = structured.factor_words(file.output.words, len(self.keys))
        self.factor_chars = structured.most_chars(self.factor_words)
        self.output = self._rules()
        self._check_keys()
        self._source = self._worded()
        _check_variables(file.system, DOMAIN_VARIABLES, path, "system")
        tree = _check_variables(self._source, (*DOMAIN_VARIABLES, *self.variables), path, "user")
        self._check_order(tree)
        self._domain = {
            "item": factors.item.singular,
            "items": factors.item.plural,
            "verb": factors.verb,
            "words": file.output.words,
            "factors": factors.listed(),
            "factor_names": factors.names(),
            "factor_keys": ", ".join(self.keys),
            "factor_words": self.factor_words,
        }
        self._user = _ENVIRONMENT.from_string(self._source, globals=self._domain)
        self.render(**dict.fromkeys(self.variables, "x"))

    @property
    def variables(self) -> tuple[str, ...]:
        """The subject's own variables, which `render` takes."""
        own = [name for name, is_asked in (("profile", self.user_attributes), ("neighbours", self.neighbours)) if is_asked]
        return (*SUBJECT_VARIABLES[self.side], *own)

    @cached_property
    def used(self) -> frozenset[str]:
        """The subject's own variables that the text really names."""
        return frozenset(_names(_ENVIRONMENT.parse(self._source))) & frozenset(self.variables)

    @cached_property
    def version(self) -> str:
        """`id@version:digest12`, over everything that shapes the request: both files' contents, not their comments.

        Of the two wordings only the one that is asked counts, so a mended word for factors re-asks nobody who answered in prose.
        """
        left_out = {name for name in _LATER_KEYS if getattr(self.file, name) == TemplateFile.model_fields[name].default}
        kept = self.file.model_dump(mode="json", exclude={"answer_form": True, "output": {"form"}, **dict.fromkeys(left_out, True)})
        file = {**kept, "user": self._source}
        content = {"template": file, "factors": self.factors.model_dump(mode="json", exclude={"vocabulary"})}
        if self.form == "factors":
            content["schema"] = self.schema
        return f"{self.id}@{self.file.version}:{json_sha(content)[:12]}"

    @cached_property
    def system(self) -> str:
        """The constant system message; empty: none is sent."""
        return self._rendered(_ENVIRONMENT.from_string(self.file.system, globals=self._domain), {})

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer in factors."""
        return structured.schema(self.keys, self.factor_chars)

    @cached_property
    def strict_schema(self) -> dict[str, Any]:
        """The same without the longest length of a text: strict mode of hosted providers does not know every keyword."""
        return structured.schema(self.keys, None)

    @cached_property
    def schema_text(self) -> str:
        """The schema as text. The keys of a request body are sorted; in a text the factors keep their order, and a server writes them in it."""
        return json.dumps(self.schema, ensure_ascii=False, separators=(",", ":"))

    def render(self, **subject: str) -> list[Message]:
        """The messages of one prompt.

        Args:
            subject: the view's own variables, already cleaned (`kar.text.clean`); exactly `self.variables`.

        Raises:
            TemplateError: a variable is missing or none of this view's.
        """
        if subject.keys() != set(self.variables):
            raise TemplateError(f"{self.path} is rendered with {sorted(subject)}, its view takes {list(self.variables)}")
        user = {"role": "user", "content": self._rendered(self._user, subject)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    def sample(self) -> list[Message]:
        """The prompt for a made-up subject."""
        return self.render(**{name: _SAMPLE[name] for name in self.variables})

    def _rendered(self, template: jinja2.Template, values: dict[str, str]) -> str:
        try:
            return template.render(values).strip()
        except jinja2.TemplateError as error:
            raise TemplateError(f"{self.path}: {error}", "mend the template") from error
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:  # an expression in the template itself
            raise TemplateError(f"{self.path}: {type(error).__name__}: {error}", "mend the expression in the template") from error

    def _rules(self) -> OutputRules:
        """The file's, with room for the JSON around the texts where the answer has factors."""
        rules = self.file.output
        if self.form == "prose":
            return rules
        return rules.model_copy(update={"max_tokens": max(rules.max_tokens, structured.answer_tokens(self.keys, self.factor_chars))})

    def _worded(self) -> str:
        """The user text with the words for the answer's form in it. They are Jinja as the rest is, so they may name variables."""
        words, source = self.file.answer_form, self.file.user
        named = len(_ANSWER_FORM.findall(source))
        if words is not None and named != 1:
            raise TemplateError(
                f"{self.path}: user names {{{{ answer_form }}}} {named} times", "name it once, where the words are to stand"
            )
        if self.form == "factors" and words is None:
            raise TemplateError(
                f"{self.path}: the answer is wanted in factors, and no words ask for them",
                "add [answer_form] with prose and factors, and name {{ answer_form }} in user; prompts/movies shows how",
            )
        if self.form == "factors" and len(self.keys) > structured.MOST_KEYS:
            raise TemplateError(
                f"{self.path}: an answer in factors has {len(self.keys)} of them, at most {structured.MOST_KEYS} are asked at once",
                "shorten the list of factors, or ask for prose",
            )
        return source if words is None else _ANSWER_FORM.sub(lambda _: words.prose if self.form == "prose" else words.factors, source)

    def _check_keys(self) -> None:
        is_own = self.path.stem == self.view or self.path.stem.startswith(f"{self.view}.")
        if not is_own or self.view.split(".")[0] != self.side:
            raise TemplateError(
                f"{self.path}: view is {self.view!r} and side {self.side!r}", f"the file's name says view {self.path.stem!r} and its side"
            )
        if self.user_attributes and self.side != "user":
            raise TemplateError(f"{self.path}: user_attributes in a template about items", "remove the key")
        if self.neighbours and self.side != "item":
            raise TemplateError(f"{self.path}: neighbours in a template about users", "remove the key: only items have neighbours")

    def _check_order(self, tree: nodes.Template) -> None:
        """The factors and the task stand before anything of the subject's own; the subject's part is used."""
        places = {name: place for place, name in reversed(list(enumerate(_names(tree))))}
        own = [name for name in self.variables if name in places]
        if not own:
            raise TemplateError(f"{self.path}: user names none of {list(self.variables)}", "every prompt would be the same; name one")
        if self.user_attributes and "profile" not in places:
            raise TemplateError(
                f"{self.path}: user_attributes is set but user never names profile", "name {{ profile }}, or remove the key"
            )
        if self.neighbours and "neighbours" not in places:
            raise TemplateError(
                f"{self.path}: neighbours is set but user never names neighbours", "name {{ neighbours }}, or remove the key"
            )
        spoken = places.get("factors", places.get("factor_names"))
        if spoken is None and not self.file.uses_factors:
            return
        if spoken is None or spoken > min(places[name] for name in own):
            raise TemplateError(
                f"{self.path}: {{{{ factors }}}} must stand before {own}",
                "constant words first: prompts that begin alike share the server's prefix cache",
            )


def load_template(folder: Path, domain: str, view: str, form: Form | None = None) -> Template:
    """Read prompts/<domain>/<view>.toml, or else prompts/any/<view>.toml, and the domain's factors.

    Args:
        view: or `<view>.<name>`, a second template of the view.
        form: in which the answer is asked for; None: as the file wants it.

    Raises:
        TemplateError: no such file; no TOML; an unknown or missing key; bad Jinja; a variable that the view does not have;
            factors are asked for and the file has no words for that.
    """
    own = folder / domain / f"{view}.toml"
    factors = load_factors(folder, domain)
    path = next((path for path in (own, folder / ANY / own.name) if path.is_file()), None)
    if path is None:
        known = ", ".join(p.stem for p in [*view_files(folder / domain), *view_files(folder / ANY)]) or "none"
        raise TemplateError(f"view {view!r} has no template {own}", f"views of this domain: {known}")
    return Template(strict(TemplateFile, read_toml(path), path), factors, path, form)


def template_paths(folder: Path, domain: str, views: list[str]) -> list[Path]:
    """The files behind these views: the domain's factors and each view's template. Raises TemplateError as `load_template`."""
    return [folder / domain / FILE, *(load_template(folder, domain, view).path for view in views)]


def view_files(domain: Path) -> list[Path]:
    """The templates of a domain's folder, by name."""
    return sorted(path for path in domain.glob("*.toml") if path.name != FILE)


def _check_variables(source: str, known: tuple[str, ...], path: Path, key: str) -> nodes.Template:
    """Parse; raise TemplateError if it is no Jinja or names a variable that is not known."""
    try:
        tree = _ENVIRONMENT.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{path}: {key}, line {error.lineno}: {error.message}", "mend the template") from error
    unknown = sorted(meta.find_undeclared_variables(tree) - set(known))
    if unknown:
        raise TemplateError(f"{path}: {key} names {', '.join(unknown)}, which nobody fills", f"known here: {', '.join(known)}")
    return tree


def _names(tree: nodes.Template) -> list[str]:
    """Variable names in the order in which the text uses them."""
    return [node.name for node in tree.find_all(nodes.Name)]
