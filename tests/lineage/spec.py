"""Whether an event is one: the client library ships no JSON schemas, but classes that are generated from them. An event that came in over
the wire must go back into those without a key left over, a required one missing, or a value of another type."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client import event_v2, facet_v2
from openlineage.client.generated import tags_run

_FACETS = {
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "documentation": facet_v2.documentation_job.DocumentationJobFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "test": facet_v2.test_run.TestRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "tags": tags_run.TagsRunFacet,  # the library's own
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "inputStatistics": facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}
_SUBSET = {
    "inputFacets": facet_v2.base_subset_dataset.InputSubsetInputDatasetFacet,
    "outputFacets": facet_v2.base_subset_dataset.OutputSubsetOutputDatasetFacet,
}


def faults(event: dict[str, Any]) -> list[str]:
    """Where an event is none; empty: it is one. The facets that are kar's are all known here: a strange one is a fault."""
    return list(_object(event_v2.RunEvent, event, "event"))


def _object(kind: type, value: Any, place: str) -> typing.Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: no object"
        return
    fields = {field.name: field for field in attr.fields(kind)}
    hints = typing.get_type_hints(kind)
    yield from (f"{place}.{key}: unknown" for key in value if key not in fields)
    for name, field in fields.items():
        if name not in value:
            if field.default is attr.NOTHING or name in ("producer", "_producer"):
                yield f"{place}.{name}: missing"
        elif name.lower().endswith("facets"):
            for key, facet in value[name].items():
                if known := _SUBSET.get(name) if key == "subset" else _FACETS.get(key):
                    yield from _object(known, facet, f"{place}.{key}")
                else:
                    yield f"{place}.{key}: unknown facet"
        elif name in ("_schemaURL", "_producer", "producer", "schemaURL"):
            if not urlsplit(value[name]).scheme:
                yield f"{place}.{name}: no URI"
        else:
            yield from _value(hints[name], value[name], f"{place}.{name}")
    yield from _validated(kind, value, place)


def _validated(kind: type, value: dict[str, Any], place: str) -> typing.Iterator[str]:
    """The fields that the schema gives a format: dates with a time, UUIDs."""
    for field in attr.fields(kind):
        if field.validator is not None and field.name in value:
            try:
                field.validator(None, field, value[field.name])
            except (ValueError, TypeError) as error:
                yield f"{place}.{field.name}: {error}"


def _value(hint: Any, value: Any, place: str) -> typing.Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        ends = [list(_value(kind, value, place)) for kind in kinds]
        yield from [] if any(not end for end in ends) else min(ends, key=len)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{place}: no list"
            return
        for number, one in enumerate(value):
            yield from _value(arguments[0], one, f"{place}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{place}: no object"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        if value not in [one.value for one in hint]:
            yield f"{place}: {value!r} is no {hint.__name__}"
    elif isinstance(hint, type) and attr.has(hint):
        yield from _object(hint, value, place)
    elif isinstance(hint, typing.ForwardRef):
        yield from _object(getattr(facet_v2.base_subset_dataset, hint.__forward_arg__), value, place)
    elif isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        yield f"{place}: {value!r} is no {hint.__name__}"
