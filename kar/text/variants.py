"""Which template asks about which subject: one for a view, or two side by side (`prompts.variants`).

    point(subject) = first 8 bytes of sha256(salt, 0x0A, subject) / 2⁶⁴        in [0, 1)
    the variant's template asks whoever's point is below `share`, the view's own template asks the others

The point depends on salt and subject alone: not on the table, its order, the date or who else is there. So raising the share
moves only those between the old share and the new one, and only they are asked again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from kar.errors import SettingsError, TemplateError
from kar.settings import Settings
from kar.text.asking import served_form
from kar.text.templates import Template, load_template


@dataclass(frozen=True)
class Split:
    """The templates of one view.

    Args:
        templates: the view's own, then its variant, if there is one.
        share: of the subjects that the variant asks, 0-1.
    """

    view: str
    templates: tuple[Template, ...]
    share: float = 0.0
    salt: str = ""

    def of(self, subjects: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """int64 [S]: the place in `templates` of each subject's."""
        if len(self.templates) == 1:
            return np.zeros(len(subjects), np.int64)
        own = (point(self.salt, subject) < self.share for subject in subjects.to_pylist())
        return np.fromiter(own, np.int64, len(subjects))


def point(salt: str, subject: str) -> float:
    """Where a subject lies between 0 and 1; 1 itself is not reached."""
    return (int.from_bytes(hashlib.sha256(f"{salt}\n{subject}".encode()).digest()[:8], "big") >> 11) / 2.0**53


def load_splits(settings: Settings) -> list[Split]:
    """The templates of every view that is asked, in the views' order.

    Raises:
        SettingsError: a view of neither side; a variant of a view that is not asked.
        TemplateError: a template that is missing or wrong, or a variant that answers another view.
    """
    folder, domain, variants = Path(settings.prompts.folder), settings.scenario.domain, settings.prompts.variants
    views = asked_views(settings)
    if stray := sorted(set(variants) - set(views)):
        raise SettingsError(f"prompts.variants names {', '.join(stray)}, which is not asked", f"views that are asked: {', '.join(views)}")
    found = []
    for view in views:
        form = served_form(settings, view)
        templates = [load_template(folder, domain, view, form)]
        if (variant := variants.get(view)) is None:
            found.append(Split(view, tuple(templates)))
            continue
        templates.append(load_template(folder, domain, variant.template, form))
        if templates[1].view != view:
            raise TemplateError(
                f"{templates[1].path} answers view {templates[1].view!r}, but prompts.variants gives it to {view!r}",
                f"write view = {view!r} in the file, or name another one",
            )
        found.append(Split(view, tuple(templates), variant.share, variant.salt))
    return found


def asked_views(settings: Settings) -> list[str]:
    """Configured views that are not imported. Raises SettingsError for a view of neither users nor items."""
    for view in [*settings.prompts.views, *settings.knowledge.imports]:
        if view.split(".")[0] not in ("user", "item"):
            raise SettingsError(f"view {view!r} is of neither side", "name views user.… or item.…, as their templates are")
    return [view for view in dict.fromkeys(settings.prompts.views) if view not in settings.knowledge.imports]
