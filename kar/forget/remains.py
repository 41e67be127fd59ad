"""What lies beside the tables: pages, work of killed runs, logs, files that nobody here made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from kar import run as runner
from kar.errors import KarError
from kar.forget.gather import STAGES
from kar.forget.partitions import Work
from kar.settings import Settings
from kar.store import Manifest, Partition, text_sha
from kar.store.forgotten import folder_of

_LINES = frozenset({".log", ".txt", ".jsonl", ".csv", ".tsv"})
_TELLING = 6  # characters of an id that bytes of no text do not spell by chance
_OWN = frozenset({*STAGES, "ledger", "batches", "published", "forgotten"})


def count(work: Work) -> None:
    """Say what `clear` would do."""
    for partition in _pages(work):
        work.journal.add("report pages", partition.path.name, made_again=1)
    _count_remains(work)


def clear(work: Work, settings: Settings) -> None:
    """Make pages that name the subjects again, remove what killed runs left, take lines out of logs."""
    _count_remains(work)
    work.journal.write(work.home)
    for partition in _pages(work):
        _make_again(work, partition, settings)
    for path in list(_left(work)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path, kept in _others(work):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes("".join(kept).encode("utf-8", "surrogateescape"))
        partial.replace(path)


def _count_remains(work: Work) -> None:
    for path in _left(work):
        work.journal.add("work folders and remains of crashes", text_sha(str(path)), removed=1)
    for path, kept in _others(work):
        lines = len(_text_of(path).splitlines())
        work.journal.add(f"other files ({path.suffix or 'no suffix'})", text_sha(str(path)), lines_removed=lines - len(kept))


def _pages(work: Work) -> list[Partition]:
    """Reports whose page names the subjects, quotes them, or names a release that is another by now."""
    words, found = work.subjects.words(), []
    for partition in work.home.partitions("report"):
        page = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in partition.path.glob("*.html"))
        is_old = any(name in page for name, new in work.journal.releases.items() if name != new)
        if is_old or words.search(page) or work.gathered.quotes.is_in(page):
            found.append(partition)
    return found


def _make_again(work: Work, partition: Partition, settings: Settings) -> None:
    """Run the report stage anew; where that cannot be done the page goes."""
    manifest = Manifest.read(partition.manifest_path)
    manifest.recipe_sha = ""  # not what any recipe gives, so that it is made
    manifest.write(partition.path)
    try:
        runner.run_held("report", settings, work.home, partition.date, work.now)
        work.journal.add("report pages", partition.path.name, made_again=1)
    except KarError as error:
        shutil.rmtree(partition.path)
        work.journal.add("report pages", partition.path.name, removed=1)
        work.journal.note(f"the report of {partition.date} was removed, for it could not be made again: {error.what}")


def _left(work: Work) -> Iterator[Path]:
    """Work folders of stages and what runs that were killed left half written. All locks are held, so nobody uses them."""
    for stage in STAGES:
        folder = work.home.path / stage
        yield from sorted((folder / ".work").glob("*"))
        for pattern in (".date=*.partial", ".date=*.replaced", ".date=*.manifest"):
            yield from sorted(folder.glob(pattern))
    yield from sorted(work.home.ledger.glob(".salvage-*"))
    yield from sorted((work.home.path / "batches").glob(".*.partial"))


def _others(work: Work) -> Iterator[tuple[Path, list[str]]]:
    """Texts that no room here writes and that name or quote the subjects, with the lines that stay; of other files the receipt tells."""
    words, long_words = work.subjects.words(), work.subjects.words(_TELLING)
    for path in sorted(work.home.path.rglob("*")):
        top = path.relative_to(work.home.path).parts[0]
        if top in _OWN or not path.is_file() or path.name == ".forget.lock" or path.is_relative_to(folder_of(work.home)):
            continue
        text = _text_of(path)
        if not (long_words if "\0" in text else words).search(text) and not work.gathered.quotes.is_in(text):
            continue
        if path.suffix in _LINES:
            lines = text.splitlines(keepends=True)
            yield path, [line for line in lines if not words.search(line) and not work.gathered.quotes.is_in(line)]
        else:
            work.journal.note(f"{path.relative_to(work.home.path)} is no file of kar's and may hold the forgotten: look at it")


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")
