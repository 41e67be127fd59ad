"""What an event says, as the library's own classes. Imported only when lineage is on: the library is an extra.

Dataset      scenario / stage.table, of which a run reads or writes one partition; its version is the digest of the table's bytes
File         scenario / file:FOLDER/NAME, a template, a checkpoint or one of the user's tables, as the recipe names it
Release      scenario / release, what `features` published; its version is the release id
Job          scenario / stage

A column's type and meaning come from `kar/tables/declared.py`, rows and bytes from manifests: no table is opened.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openlineage.client import event_v2 as ol
from openlineage.client import facet_v2 as facet
from openlineage.client.uuid import generate_new_uuid

from kar.store import Inputs, Manifest, Partition
from kar.tables import TABLES, IdTypes

PARENT, ROOT = "OPENLINEAGE_PARENT_ID", "OPENLINEAGE_ROOT_PARENT_ID"
"""namespace/job/run of the task that runs us and of the DAG run, as Airflow's macros `lineage_parent_id` and `lineage_root_parent_id` write them."""
_MOST_FILES = 100
_VERSION = importlib.metadata.version("kar")
_PRODUCER = f"urn:kar:{_VERSION}"


@dataclass(frozen=True)
class Run:
    """What all events of one run have in common. Arguments as `kar.lineage.told` takes them."""

    id: str
    inputs: Inputs
    recipe: Mapping[str, Any]
    environ: Mapping[str, str]

    @property
    def namespace(self) -> str:
        return self.inputs.home.scenario


def new_run_id() -> str:
    return str(generate_new_uuid())


def event_of(state: str, run: Run, at: dt.datetime, made: Manifest | None, error: str = "") -> ol.RunEvent:
    """One event.

    Args:
        state: START · COMPLETE · FAIL · ABORT.
        at: when, UTC.
        made: the manifest of what was made; None unless COMPLETE.
        error: the class of the error that ended it.
    """
    ol.set_producer(_PRODUCER)
    stage = run.inputs.stage
    job_facets = {
        "jobType": facet.job_type_job.JobTypeJobFacet(processingType="BATCH", integration="KAR", jobType="STAGE"),
        "documentation": facet.documentation_job.DocumentationJobFacet(description=stage.title),
    }
    return ol.RunEvent(
        eventType=ol.RunState[state],
        eventTime=at.isoformat(),
        run=ol.Run(run.id, facets=_run_facets(run, made, error)),
        job=ol.Job(run.namespace, stage.name, facets=job_facets),
        inputs=list(_read(run)),
        outputs=[] if made is None else list(_written(run, made)),
    )


def _run_facets(run: Run, made: Manifest | None, error: str) -> dict[str, facet.RunFacet]:
    inputs = run.inputs
    start = dt.datetime.combine(inputs.date, dt.time(), dt.UTC)
    engine = facet.processing_engine_run.ProcessingEngineRunFacet(
        version=_VERSION, name="kar", openlineageAdapterVersion=importlib.metadata.version("openlineage-python")
    )
    found: dict[str, facet.RunFacet] = {
        "nominalTime": facet.nominal_time_run.NominalTimeRunFacet(start.isoformat(), inputs.cutoff_at.isoformat()),
        "processing_engine": engine,
    }
    if parent := _parent(run.environ):
        found["parent"] = parent
    if made is not None and (tests := [*_left_out(run, made), *_judged(made)]):
        found["test"] = facet.test_run.TestRunFacet(tests=tests)
    if error:
        found["errorMessage"] = facet.error_message_run.ErrorMessageRunFacet(message=error, programmingLanguage="PYTHON")
    return found


def _left_out(run: Run, made: Manifest) -> Iterator[facet.test_run.TestExecution]:
    """Rows that the stage rejected, by reason, as tests that go on when they fail. A reason belongs to the run, not to one table."""
    for reason, meaning in run.inputs.stage.rejects.items():
        count = made.rejected.get(reason, 0)
        yield facet.test_run.TestExecution(
            name=reason,
            status="fail" if count else "pass",
            severity="warn",
            type="rejected_rows",
            description=meaning,
            expected="0",
            actual=str(count),
        )


def _judged(made: Manifest) -> Iterator[facet.test_run.TestExecution]:
    """The verdicts of a promotion gate, where the stage has one: a check that says no keeps what was made from being used."""
    for verdict in made.gate:
        measured, limit = verdict["measured"], verdict["limit"]
        yield facet.test_run.TestExecution(
            name=verdict["check"],
            status="skip" if measured is None and verdict["is_passed"] else "pass" if verdict["is_passed"] else "fail",
            severity="error",
            type="gate",
            expected=None if limit is None else str(limit),
            actual=None if measured is None else str(measured),
        )


def _parent(environ: Mapping[str, str]) -> facet.parent_run.ParentRunFacet | None:
    """The run that this one is part of; None if the environment names none that can be read."""
    parent, root = _named(environ.get(PARENT, "")), _named(environ.get(ROOT, ""))
    if parent is None:
        return None
    kinds = facet.parent_run
    namespace, job, run_id = root or parent
    return kinds.ParentRunFacet(
        run=kinds.Run(parent[2]),
        job=kinds.Job(parent[0], parent[1]),
        root=kinds.Root(kinds.RootRun(run_id), kinds.RootJob(namespace, job)),
    )


def _named(text: str) -> tuple[str, str, str] | None:
    """namespace/job/run; a namespace may hold slashes."""
    parts = text.rsplit("/", 2)
    try:
        uuid.UUID(parts[-1])
    except ValueError:
        return None
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts) else None


def _read(run: Run) -> Iterator[ol.InputDataset]:
    for (stage, table), partition in run.inputs.partitions.items():
        if partition is not None:
            figures = Manifest.read(partition.manifest_path).tables[table]
            statistics = facet.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(figures["rows"], figures["bytes"], 1)
            subset = facet.base_subset_dataset.InputSubsetInputDatasetFacet(_of_date(partition))
            yield ol.InputDataset(
                run.namespace,
                f"{stage}.{table}",
                facets=_table_facets(table, figures, run.inputs.ids),
                inputFacets={"inputStatistics": statistics, "subset": subset},
            )
    for name, sha in list(run.recipe["files"].items())[:_MOST_FILES]:
        version = facet.dataset_version_dataset.DatasetVersionDatasetFacet(sha)
        yield ol.InputDataset(run.namespace, f"file:{name}", facets={"version": version})


def _written(run: Run, made: Manifest) -> Iterator[ol.OutputDataset]:
    partition = run.inputs.home.partition(made.stage, run.inputs.date)
    for table, figures in made.tables.items():
        statistics = facet.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(figures["rows"], figures["bytes"], 1)
        subset = facet.base_subset_dataset.OutputSubsetOutputDatasetFacet(_of_date(partition))
        yield ol.OutputDataset(
            run.namespace,
            f"{made.stage}.{table}",
            facets=_table_facets(table, figures, run.inputs.ids),
            outputFacets={"outputStatistics": statistics, "subset": subset},
        )
    if release := made.figures.get("release_id"):
        version = facet.dataset_version_dataset.DatasetVersionDatasetFacet(str(release))
        yield ol.OutputDataset(run.namespace, "release", facets={"version": version})


def _of_date(partition: Partition) -> facet.base_subset_dataset.PartitionSubsetCondition:
    """One partition of the dataset: which date was read where a stage reads the newest, or the one before."""
    one = facet.base_subset_dataset.Partition({"date": partition.date.isoformat()})
    return facet.base_subset_dataset.PartitionSubsetCondition([one])


def _table_facets(table: str, figures: Mapping[str, Any], ids: IdTypes) -> dict[str, facet.DatasetFacet]:
    field = facet.schema_dataset.SchemaDatasetFacetFields
    columns = [field(c.name, str(c.arrow(ids) or "fixed_size_list<float>"), c.meaning) for c in TABLES[table].columns]
    return {
        "schema": facet.schema_dataset.SchemaDatasetFacet(fields=columns),
        "version": facet.dataset_version_dataset.DatasetVersionDatasetFacet(str(figures["sha"])),
    }
