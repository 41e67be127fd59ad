"""Where data lies and how a partition becomes one: paths, inputs, outputs, the stage manifest. No stage logic."""

from kar.store.manifest import Manifest, file_sha, json_sha, text_sha
from kar.store.partition import Inputs, Output
from kar.store.paths import Home, Partition
from kar.store.whole import write_whole

__all__ = ["Home", "Inputs", "Manifest", "Output", "Partition", "file_sha", "json_sha", "text_sha", "write_whole"]
