"""The rankers that the adaptor is trained with, behind one interface. A new one is added to `BACKBONES` and is tested by being there."""

from __future__ import annotations

from kar.model.backbones.base import Backbone, Shape
from kar.model.backbones.din import DIN
from kar.model.backbones.fibinet import FiBiNET

BACKBONES: dict[str, type[Backbone]] = {"fibinet": FiBiNET, "din": DIN}

__all__ = ["BACKBONES", "DIN", "Backbone", "FiBiNET", "Shape"]
