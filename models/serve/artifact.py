"""Artifacts: a model as bytes, and the checks between those bytes and service.

1. Before anything is built: size, sha256, versions of Python and scikit-learn, and the types in the
   file. `models.serve.pickles` reads them as data, `models.serve.allowed` builds only what is
   allowed.
2. After it: the parts fit each other, the features are those of this code, and the golden rows come
   out the same to the bit.

The signature is checked before all of this, with the manifest (`models.registry.versions`).
"""

import hashlib
import io
import pickle
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import leadstream
from features import FittedFeatures, columns_of
from models.serve import allowed, pickles
from models.serve.refused import Refused

if TYPE_CHECKING:
    from models.serve.scorer import Model

FILE = "model.joblib"
MANIFEST_VERSION = 1
KEYS = (
    *(
        "model",
        "scaler",
        "feature_selector",
        "feature_names",
        "performance",
        "feature_importance",
    ),  # as audited
    *("features", "calibrator", "threshold", "grades", "explain_base"),
)
_GOLDEN = ("raw", "probability", "low", "high")
# Bounds on what scoring allocates by: features, and nodes of all trees times features.
_MAX_FEATURES = 4096
_MAX_NODES = 5_000_000
_MAX_CONTRIBUTIONS = 100_000_000
_MAX_GOLDEN_ROWS = 1000
# Errors that numbers and parts of a wrong kind raise.
WRONG = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An artifact dictionary and its manifest before publishing.

    Publishing adds version, size and sha256 to the manifest.
    """

    artifact: dict[str, Any]
    manifest: dict[str, Any]


def dump(artifact: Mapping[str, Any]) -> bytes:
    """Return the artifact dictionary as compressed joblib bytes.

    The same artifact gives the same bytes. Classes are named as in `allowed.OWN_NAMES`, wherever
    they are defined, so that a moved module changes no artifact.
    """
    from joblib.numpy_pickle import NumpyPickler  # noqa: PLC0415  # not needed to read artifacts

    class ArtifactPickler(NumpyPickler):  # type: ignore[misc]  # publishes no types
        """Joblib's pickler with fixed names for our own classes."""

        def save_global(self, obj: Any, name: str | None = None) -> None:
            fixed = allowed.fixed_name(obj)
            if fixed is None:
                super().save_global(obj, name)
                return
            module, _, own = fixed.rpartition(".")
            self.save(module)
            self.save(own)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(obj)

    buffer = io.BytesIO()
    ArtifactPickler(buffer).dump(dict(artifact))
    return zlib.compress(buffer.getvalue(), 3)


def describe(payload: bytes) -> dict[str, Any]:
    """Return what a manifest says of the artifact's bytes: file, size and sha256."""
    return {"file": FILE, "size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


def library_versions() -> dict[str, str]:
    """Return the library versions on which reading an artifact and its bits depend."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("scikit-learn", "numpy", "joblib")},
        "leadstream": leadstream.__version__,
    }


def load(payload: bytes, manifest: Mapping[str, Any]) -> "Model":
    """Return the model after every check of this module.

    Raises Refused with the check that failed.
    """
    from models.serve.scorer import Model  # noqa: PLC0415  # imports numba if installed

    try:
        check_bytes(payload, manifest)
        check_libraries(manifest)
    except WRONG as error:
        raise Refused(
            f"its manifest cannot be understood ({type(error).__name__}: {error})"
        ) from error
    try:
        artifact = unpack(payload)
        check_parts(artifact)
        check_features(artifact, manifest)
        model = Model(artifact, manifest)
        check_golden_rows(model)
    except WRONG as error:
        raise Refused(f"its artifact cannot be used ({type(error).__name__}: {error})") from error
    return model


def unpack(payload: bytes, *, scikit: bool = False) -> dict[str, Any]:
    """Return the dictionary in a joblib file.

    With `scikit` the estimators are scikit-learn's own, as `dump` needs them. Otherwise they are
    the records that serving reads. Raises Refused if the file holds a type that is not allowed.
    """
    data, names = pickles.read(payload)
    try:
        artifact = allowed.build(data, names, scikit=scikit)
    except WRONG as error:
        raise Refused(f"its artifact cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(artifact, dict):
        raise Refused(f"its artifact is a {type(artifact).__name__}, not a dictionary")
    return artifact


def check_bytes(payload: bytes, manifest: Mapping[str, Any]) -> None:
    """Check manifest version, size and sha256 of the artifact."""
    if manifest["manifest_version"] != MANIFEST_VERSION:
        raise Refused(
            f"its manifest has version {manifest['manifest_version']}, this code reads "
            f"{MANIFEST_VERSION}"
        )
    found = describe(payload)
    for name in ("size", "sha256"):
        if found[name] != manifest["artifact"][name]:
            raise Refused(
                f"its artifact has {name} {found[name]}, the manifest says "
                f"{manifest['artifact'][name]}"
            )


def check_libraries(manifest: Mapping[str, Any]) -> None:
    """Check that Python and scikit-learn have the same minor version as in training.

    Neither promises that another minor version reads its pickles.
    """
    here = library_versions()
    for name in ("python", "scikit-learn"):
        trained = manifest["libraries"][name]
        if trained.split(".")[:2] != here[name].split(".")[:2]:
            raise Refused(
                f"it was trained with {name} {trained}, here is {here[name]}: train again, or "
                f"install {trained}"
            )


def check_parts(artifact: Mapping[str, Any]) -> None:
    """Check that all parts exist and have the right types and allowed sizes."""
    from models.serve.calibrators import CALIBRATORS, Calibrator  # noqa: PLC0415  # imports scipy

    if missing := [key for key in KEYS if key not in artifact]:
        raise Refused(f"its artifact lacks {', '.join(missing)}")
    features, scaler, selector, calibrator = (
        artifact[key] for key in ("features", "scaler", "feature_selector", "calibrator")
    )
    if not isinstance(features, FittedFeatures):
        raise Refused("its artifact's features are of another kind")
    outputs = features.specification.outputs
    k = len(outputs)
    if max(k, len(features.specification.inputs)) > _MAX_FEATURES or artifact[
        "feature_names"
    ] != list(outputs):
        raise Refused("its artifact's feature names are not those of its specification")
    if not all(
        isinstance(cut, float) for cut in (artifact["threshold"], *artifact["grades"].values())
    ):
        raise Refused("its artifact's threshold and grades are no numbers")
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (features.calendar.starts, features.calendar.offsets)
    ]
    pairs += [
        (distribution.grid, distribution.ranks) for distribution in features.distributions.values()
    ]
    if not isinstance(calibrator, Calibrator) or len(calibrator.levels) != len(
        calibrator.incomplete
    ):
        raise Refused("its artifact's calibrator is of another kind")
    if calibrator.name not in CALIBRATORS:
        raise Refused(f"its artifact's calibrator {calibrator.name!r} is unknown to this code")
    for steps in (calibrator.intervals, *calibrator.incomplete):
        pairs += [(steps.p0, steps.p1), (steps.p0[1:], steps.scores)]
    if any(one.ndim != 1 or one.shape != other.shape for one, other in pairs):
        raise Refused("its artifact's tables are not of one length")
    for numbers in (scaler.mean_, scaler.scale_, selector.scores_):
        if (
            not isinstance(numbers, np.ndarray)
            or numbers.shape != (k,)
            or numbers.dtype != np.float64
        ):
            raise Refused(f"its artifact's scaler and selector are not made for its {k} features")
    if type(selector.k) is not int and selector.k != "all":
        raise Refused("its artifact's selector does not say how many features it takes")
    _check_forest(artifact["model"], int(selector.get_support().sum()))


def _check_forest(model: Any, k: int) -> None:
    """Check that every walk over k features ends in a leaf, and the size of the trees."""
    from models.serve.forest import Forest, pack  # noqa: PLC0415  # imports scipy

    # A file may name one tree many times, so this counts before the trees are packed.
    trees = (
        [] if isinstance(model, Forest) else [estimator.tree_ for estimator in model.estimators_]
    )
    if sum(tree.node_count for tree in trees) > _MAX_NODES:
        raise Refused("its artifact's forest is too large")
    forest = pack(model)
    if len(forest.value) * k > _MAX_CONTRIBUTIONS:
        raise Refused("its artifact's forest is too large")
    forest.check(k)


def check_features(artifact: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Check that manifest, artifact and this code have the same feature specification."""
    features = artifact["features"]
    declared = manifest["features"]["specification_hash"]
    if not declared == features.specification_hash == features.specification.hash:
        raise Refused(
            f"its features have specification {declared[:12]}, this code computes "
            f"{features.specification.hash[:12]}: "
            "train again with this code, or run the code it was trained with"
        )


def check_golden_rows(model: "Model") -> None:
    """Check that the manifest's golden rows come out the same to the bit."""
    golden = model.manifest["golden"]
    if not isinstance(golden, list) or not 0 < len(golden) <= _MAX_GOLDEN_ROWS:
        raise Refused(f"its manifest must have 1 to {_MAX_GOLDEN_ROWS:,} golden rows")
    as_of = np.array([row["as_of"] for row in golden], dtype=np.int64)
    # With a reason, so that its machine code is there before a batch waits for it.
    scores = model.score(columns_of([row["state"] for row in golden]), as_of, 1)
    for name in _GOLDEN:
        for i, (stated, computed) in enumerate(
            zip((row[name] for row in golden), getattr(scores, name).tolist(), strict=True)
        ):
            if stated != computed:
                raise Refused(
                    f"golden row {i + 1} comes out with {name} {computed!r}, "
                    f"the manifest says {stated!r}"
                )


def golden_rows(
    model: "Model", states: list[dict[str, Any]], as_of: list[int]
) -> list[dict[str, Any]]:
    """Return lead states and moments (n,), ms UTC, with scores, for `check_golden_rows`."""
    scores = model.score(columns_of(states), np.array(as_of, dtype=np.int64))
    stated = {name: getattr(scores, name).tolist() for name in _GOLDEN}
    return [
        {"state": state, "as_of": moment, **{name: stated[name][i] for name in _GOLDEN}}
        for i, (state, moment) in enumerate(zip(states, as_of, strict=True))
    ]
