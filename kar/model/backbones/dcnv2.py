"""DCNv2: DCN whose cross layers have a matrix each instead of a vector.

Source: DCN V2, arXiv 2008.13535; where the adapted vectors enter, three layers: KAR, arXiv 2306.10933. Layers: deepctr-torch.

Shape suffixes besides those of `base`: X width of all fields side by side
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from kar.model.backbones.dcn import DCN


class DCNv2(DCN):
    """See the module."""

    parameterization: ClassVar[Literal["vector", "matrix"]] = "matrix"

    def cross(self, x_BX: Tensor) -> Tensor:
        """[B, X]: what `crossing(x_BX)` gives, in one product per layer instead of one per row; a test holds the two equal.

        x_l+1 = x_0 ∘ (W_l x_l + b_l) + x_l
        """
        crossed_BX = x_BX
        for weight_XX, bias_X1 in zip(self.crossing.kernels, self.crossing.bias, strict=True):
            crossed_BX = torch.addcmul(crossed_BX, x_BX, torch.addmm(bias_X1[:, 0], crossed_BX, weight_XX.t()))
        return crossed_BX
