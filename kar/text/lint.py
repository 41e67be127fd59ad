"""`python -m kar.text.lint prompts`: what is wrong with the templates, one line a fault; part of `make check`."""

from __future__ import annotations

import sys
from pathlib import Path

from kar.errors import KarError
from kar.text.templates import ANY, Template, load_template, view_files

REQUIRED_VIEWS = ("user.preference", "item.facts")


def lint(folder: Path) -> list[str]:
    """What is wrong with the templates under prompts/, one sentence a fault; empty: nothing is.

    Every domain has factors and both views, every file loads (strict keys, known variables, constant part first),
    every template renders a sample in each form it has words for and speaks of every factor where it uses them, and no two share an
    id. The templates in `any` are read with each domain's factors.
    """
    domains = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != ANY) if folder.is_dir() else []
    faults = [] if domains else [f"{folder} holds no domain"]
    seen: dict[str, Path] = {}
    for domain in domains:
        views = [path.stem for path in view_files(domain)]
        faults += [f"{domain} lacks {view}.toml" for view in REQUIRED_VIEWS if view not in views]
        for view in dict.fromkeys([*views, *(path.stem for path in view_files(folder / ANY))]):
            try:
                template = load_template(folder, domain.name, view)
                forms = [template] + ([load_template(folder, domain.name, view, "factors")] if template.file.answer_form else [])
            except KarError as error:
                faults.append(error.what)
                continue
            faults += _twice(template, seen) + [fault for worded in forms for fault in _faults(worded)]
        if not views:
            faults += [f"{domain} has no templates"]
    return faults


def _twice(template: Template, seen: dict[str, Path]) -> list[str]:
    first = seen.setdefault(template.id, template.path)
    return [] if first == template.path else [f"{template.path}: id {template.id!r} is also that of {first}"]


def _faults(template: Template) -> list[str]:
    """Of one wording; a template that can be asked for factors has two."""
    faults = []
    prompt = "\n".join(message["content"] for message in template.sample())
    silent = [factor.name for factor in template.factors.factors if factor.name not in prompt and template.file.uses_factors]
    if template.form == "factors":
        silent += [key for key in template.keys if key not in prompt]
    if silent:
        faults.append(f"{template.path}: the prompt does not name the factors {silent}")
    if template.output.min_words > template.output.words:
        faults.append(f"{template.path}: min_words {template.output.min_words} is more than words {template.output.words}")
    if template.output.max_tokens < 1.3 * template.output.words:
        faults.append(f"{template.path}: {template.output.max_tokens} tokens cannot hold {template.output.words} words")
    return faults


def main(arguments: list[str]) -> int:
    """Print the faults of the folder named; 0: there are none, 1: there are, 2: wrong usage."""
    if len(arguments) != 1:
        print("usage: python -m kar.text.lint FOLDER", file=sys.stderr)
        return 2
    faults = lint(Path(arguments[0]))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
