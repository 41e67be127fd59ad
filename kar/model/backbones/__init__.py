"""The rankers that the adaptor is trained with, behind one interface. A new one is added to `BACKBONES` and is tested by being there."""

from __future__ import annotations

from kar.model.backbones.autoint import AutoInt
from kar.model.backbones.base import Backbone, Shape
from kar.model.backbones.dcn import DCN
from kar.model.backbones.dcnv2 import DCNv2
from kar.model.backbones.deepfm import DeepFM
from kar.model.backbones.dien import DIEN
from kar.model.backbones.din import DIN
from kar.model.backbones.fibinet import FiBiNET
from kar.model.backbones.fignn import FiGNN
from kar.model.backbones.xdeepfm import XDeepFM

BACKBONES: dict[str, type[Backbone]] = {
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "autoint": AutoInt,
    "fignn": FiGNN,
    "fibinet": FiBiNET,
    "din": DIN,
    "dien": DIEN,
}

__all__ = ["BACKBONES", "Backbone", "Shape"]
