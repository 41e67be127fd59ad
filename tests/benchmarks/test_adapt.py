"""The measurement of scoring: what it counts is what the adaptor has."""

from __future__ import annotations

import torch

from benchmarks import adapt
from kar.model.adaptor import Adaptor


def test_each_precision_has_a_floor_and_a_figure_and_the_threads_stay_as_they_were() -> None:
    before = torch.get_num_threads()
    rows = list(adapt.rows(subjects=3000, repetitions=1, threads=1))
    assert [(row.system, row.unit) for row in rows] == [("the floor", "vectors/s"), ("kar", "vectors/s")] * 2
    assert all(row.figure > 0 for row in rows)
    assert [row.ratio is None for row in rows] == [True, False, True, False]
    assert torch.get_num_threads() == before


def test_the_floor_counts_two_operations_for_each_weight_that_one_vector_meets() -> None:
    adaptor = Adaptor((adapt.VIEW,), adapt.WIDTH, adapt.ADAPTED, adapt.HIDDEN, adapt.SHARED, adapt.OWN)
    weights = sum(value.numel() for name, value in adaptor.named_parameters() if "weight" in name)
    assert weights * 2 == adapt.FLOP
