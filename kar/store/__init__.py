"""Where data lies and how a partition becomes one: paths, inputs, outputs, the stage manifest. No stage logic."""

from kar.store.forgotten import Forgotten, read_forgotten
from kar.store.manifest import Manifest, file_sha, json_sha, text_sha
from kar.store.partition import Inputs, Output
from kar.store.paths import Home, Partition
from kar.store.whole import write_whole

__all__ = [
    "Forgotten",
    "Home",
    "Inputs",
    "Manifest",
    "Output",
    "Partition",
    "file_sha",
    "json_sha",
    "read_forgotten",
    "text_sha",
    "write_whole",
]
