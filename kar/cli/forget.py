"""`kar forget user|item ID…` and `kar forget requests FOLDER`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, now, open_scenario, say

if TYPE_CHECKING:
    from kar.forget import Receipt

_SHOWN = 20


def forget(
    side: Annotated[str, typer.Argument(help="user, item, or requests: a folder with user.txt and item.txt, to which others append")],
    settings: SettingsPath,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="As the source writes them; of requests the folder.", show_default="none")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="More ids, one a line.", show_default="none")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be touched.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Take every byte about users or items out of the home, for good, and keep them out. Killed midway, the same command goes on."""
    from kar.forget import forget as forget_them
    from kar.forget import ids_in
    from kar.forget.subjects import subjects_of
    from kar.store.forgotten import folder_of

    if side == "requests":
        _requests(settings, ids, file, dry_run, override, home)
        return
    if side not in ("user", "item"):
        raise typer.BadParameter("say user, item or requests", param_hint="SIDE")
    wanted = [*(ids or ()), *(ids_in(file) if file is not None else ())]
    if not wanted:
        raise typer.BadParameter("name at least one id, or a file of them with --file", param_hint="ID…")
    loaded, place = open_scenario(settings, override, home)
    subjects = subjects_of(loaded, wanted if side == "user" else [], wanted if side == "item" else [])
    receipt = forget_them(loaded, place, subjects, now(), is_dry=dry_run)
    say("\n".join(_told(receipt)))
    if not dry_run:
        say(f"receipt in {folder_of(place) / 'receipts'}")
    if receipt.still_leased or (receipt.not_done and not dry_run):
        raise SystemExit(1)


def _requests(
    settings: Path, ids: list[str] | None, file: Path | None, dry_run: bool, override: list[str] | None, home: Path | None
) -> None:
    """Work off a folder of requests. Ids that nothing knows are no failure; what is not done yet is."""
    from kar.forget import work_off
    from kar.store.forgotten import folder_of

    if len(ids or ()) != 1 or file is not None:
        raise typer.BadParameter("name one folder: kar forget requests FOLDER", param_hint="ID…")
    loaded, place = open_scenario(settings, override, home)
    told = work_off(loaded, place, Path((ids or [""])[0]), now(), is_dry=dry_run)
    if told.receipt is not None:
        say("\n".join(_told(told.receipt)))
        if not dry_run:
            say(f"receipt in {folder_of(place) / 'receipts'}")
    for of, one in told.unknown[:_SHOWN]:
        say(f"unknown: {of} {one}; it stays in {of}.txt")
    if len(told.unknown) > _SHOWN:
        say(f"unknown: {len(told.unknown) - _SHOWN:,} more")
    say(f"{told.done:,} requests done, {len(told.unknown):,} unknown, {told.waiting:,} waiting")
    if told.receipt is not None and not told.receipt.is_complete and not dry_run:
        raise SystemExit(1)


def _told(receipt: Receipt) -> list[str]:
    """The receipt, as lines."""
    count = len(receipt.users) + len(receipt.items)
    lines = [f"{'would forget' if receipt.is_dry else 'forgot'} {count:,} in {receipt.seconds:.1f} s"]
    for place, counts in sorted(receipt.places.items()):
        lines.append(f"  {place}: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in counts.items()))
    lines += [f"  release {old} is {new} now" for old, new in receipt.releases.items()]
    lines += [
        f"  still there: release {old}, held by {reader}; run the same command again after that"
        for old, reader in receipt.still_leased.items()
    ]
    return lines + [f"  not done: {what}" for what in receipt.not_done]
