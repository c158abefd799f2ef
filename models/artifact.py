"""A model as bytes, and the checks that stand between those bytes and service.

Before a byte is unpickled, because unpickling runs what the file says: size, sha256, and the libraries it was made
with. After it: the features are those of this code, and the golden rows come out the same to the bit.
"""

import hashlib
import io
import pickle
import platform
import warnings
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

import leadstream
from features import columns_of
from leadstream.errors import UserError

if TYPE_CHECKING:
    from models.scorer import Model

FILE = "model.joblib"
MANIFEST_VERSION = 1
KEYS = (
    *("model", "scaler", "feature_selector", "feature_names", "performance", "feature_importance"),  # as audited
    *("features", "calibrator", "threshold", "grades", "explain_base"),
)
_GOLDEN = ("raw", "probability", "low", "high")
_UNREADABLE = (
    *(pickle.UnpicklingError, zlib.error, EOFError, ImportError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
)


class Refused(UserError):
    """A version that may not serve; the text says which check it failed."""


def dump(artifact: Mapping[str, Any]) -> bytes:
    """The artifact dictionary as compressed joblib bytes; the same artifact gives the same bytes."""
    buffer = io.BytesIO()
    joblib.dump(dict(artifact), buffer, compress=("zlib", 3))
    return buffer.getvalue()


def describe(payload: bytes) -> dict[str, Any]:
    """What a manifest says of the artifact's bytes: file, size and sha256."""
    return {"file": FILE, "size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


def library_versions() -> dict[str, str]:
    """The versions that decide whether an artifact can be read and gives the same bits."""
    import sklearn  # noqa: PLC0415  # a second and 200 MB that `models list` must not pay

    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "joblib": joblib.__version__,
        "leadstream": leadstream.__version__,
    }


def load(payload: bytes, manifest: Mapping[str, Any]) -> "Model":
    """The model, after every check of this module; raises Refused with the check that failed."""
    from models.scorer import Model  # noqa: PLC0415  # brings scikit-learn

    try:
        check_bytes(payload, manifest)
        check_libraries(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"its manifest cannot be understood ({error})") from error
    try:
        artifact = _unpickle(payload)
        if missing := [key for key in KEYS if key not in artifact]:
            raise Refused(f"its artifact lacks {', '.join(missing)}")
        check_features(artifact, manifest)
        model = Model(artifact, manifest)
        check_golden_rows(model)
    except _UNREADABLE as error:
        raise Refused(f"its artifact cannot be read ({type(error).__name__}: {error})") from error
    return model


def check_bytes(payload: bytes, manifest: Mapping[str, Any]) -> None:
    """Manifest version, size and sha256 of the artifact."""
    if manifest["manifest_version"] != MANIFEST_VERSION:
        raise Refused(f"its manifest has version {manifest['manifest_version']}, this code reads {MANIFEST_VERSION}")
    facts = describe(payload)
    for name in ("size", "sha256"):
        if facts[name] != manifest["artifact"][name]:
            raise Refused(f"its artifact has {name} {facts[name]}, the manifest says {manifest['artifact'][name]}")


def check_libraries(manifest: Mapping[str, Any]) -> None:
    """scikit-learn must be of the same minor version: its pickles are not made to be read by another."""
    trained, here = manifest["libraries"]["scikit-learn"], library_versions()["scikit-learn"]
    if trained.split(".")[:2] != here.split(".")[:2]:
        raise Refused(f"it was trained with scikit-learn {trained}, here is {here}: train again, or install {trained}")


def check_features(artifact: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """The specification in the manifest, the one at training, and the one that this code computes are the same."""
    features = artifact["features"]
    declared = manifest["features"]["specification_hash"]
    if not declared == features.specification_hash == features.specification.hash:
        raise Refused(
            f"its features have specification {declared[:12]}, this code computes {features.specification.hash[:12]}: "
            "train again with this code, or run the code it was trained with"
        )


def check_golden_rows(model: "Model") -> None:
    """The manifest's golden rows must come out the same to the bit."""
    golden = model.manifest["golden"]
    as_of = np.array([row["as_of"] for row in golden], dtype=np.int64)
    scores = model.score(columns_of([row["state"] for row in golden]), as_of)
    for name in _GOLDEN:
        for i, (said, is_) in enumerate(
            zip((row[name] for row in golden), getattr(scores, name).tolist(), strict=True)
        ):
            if said != is_:
                raise Refused(f"golden row {i + 1} comes out with {name} {is_!r}, the manifest says {said!r}")


def golden_rows(model: "Model", states: list[dict[str, Any]], as_of: list[int]) -> list[dict[str, Any]]:
    """What check_golden_rows compares later: n lead states and moments with what the model says of them."""
    scores = model.score(columns_of(states), np.array(as_of, dtype=np.int64))
    said = {name: getattr(scores, name).tolist() for name in _GOLDEN}
    return [
        {"state": state, "as_of": moment, **{name: said[name][i] for name in _GOLDEN}}
        for i, (state, moment) in enumerate(zip(states, as_of, strict=True))
    ]


def _unpickle(payload: bytes) -> dict[str, Any]:
    from sklearn.exceptions import InconsistentVersionWarning  # noqa: PLC0415  # see library_versions

    with warnings.catch_warnings():
        # A patch release apart is allowed; the golden rows decide.
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        artifact = joblib.load(io.BytesIO(payload))
    if not isinstance(artifact, dict):
        raise Refused(f"its artifact is a {type(artifact).__name__}, not a dictionary")
    return artifact
