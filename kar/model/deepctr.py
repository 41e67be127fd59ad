"""deepctr-torch's layers, and the only place that imports deepctr-torch.

On import deepctr-torch starts a thread that asks the package index for a newer version (no time-out, not a daemon,
prints when it is offline). Its `deepctr_torch/__init__.py` calls `deepctr_torch.utils.check_version`, so a stand-in for
that module is in place while the package is imported, and gone afterwards. It also spares the import of `requests`.
"""

from __future__ import annotations

import sys
import types
import warnings

_UTILS = "deepctr_torch.utils"


def _import_without_version_check() -> None:
    if "deepctr_torch" in sys.modules:
        return
    stand_in = types.ModuleType(_UTILS)
    stand_in.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules[_UTILS] = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in its docstrings, first compilation only
            import deepctr_torch  # noqa: F401
    finally:
        del sys.modules[_UTILS]


_import_without_version_check()

from deepctr_torch.layers.core import DNN  # noqa: E402
from deepctr_torch.layers.interaction import CIN, FM, BilinearInteraction, CrossNet, InteractingLayer, SENETLayer  # noqa: E402
from deepctr_torch.layers.sequence import AttentionSequencePoolingLayer, DynamicGRU  # noqa: E402

__all__ = [
    "CIN",
    "DNN",
    "FM",
    "AttentionSequencePoolingLayer",
    "BilinearInteraction",
    "CrossNet",
    "DynamicGRU",
    "InteractingLayer",
    "SENETLayer",
]
