"""A model as bytes, and the checks that stand between those bytes and service.

Before anything is made of them: size, sha256, the Python and scikit-learn they were made with, and the types they hold
(models/serve/pickles.py reads them as data, models/serve/allowed.py makes only what is allowed). After it: the parts fit each
other, the features are those of this code, and the golden rows come out the same to the bit. The signature is checked
before all of this, where the manifest is read (models/registry/versions.py).
"""

import hashlib
import io
import platform
from collections.abc import Mapping
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
_MOST_FEATURES = 4096
_MOST_NODES = 5_000_000
_MOST_CONTRIBUTIONS = 100_000_000
_MOST_GOLDEN_ROWS = 1000
# What numbers and parts of a wrong kind raise, wherever they first matter.
WRONG = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def dump(artifact: Mapping[str, Any]) -> bytes:
    """The artifact dictionary as compressed joblib bytes; the same artifact gives the same bytes."""
    import joblib  # noqa: PLC0415  # whoever only reads artifacts does without

    buffer = io.BytesIO()
    joblib.dump(dict(artifact), buffer, compress=("zlib", 3))
    return buffer.getvalue()


def describe(payload: bytes) -> dict[str, Any]:
    """What a manifest says of the artifact's bytes: file, size and sha256."""
    return {"file": FILE, "size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


def library_versions() -> dict[str, str]:
    """The versions that decide whether an artifact can be read and gives the same bits."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("scikit-learn", "numpy", "joblib")},
        "leadstream": leadstream.__version__,
    }


def load(payload: bytes, manifest: Mapping[str, Any]) -> "Model":
    """The model, after every check of this module; raises Refused with the check that failed."""
    from models.serve.scorer import Model  # noqa: PLC0415  # brings numba, where it is installed

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
    """The dictionary in a joblib file, made of allowed types only; raises Refused for any other content.

    With `scikit` its estimators are scikit-learn's own, as `dump` wants them, else what serving reads of them.
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
    """Manifest version, size and sha256 of the artifact."""
    if manifest["manifest_version"] != MANIFEST_VERSION:
        raise Refused(
            f"its manifest has version {manifest['manifest_version']}, this code reads {MANIFEST_VERSION}"
        )
    facts = describe(payload)
    for name in ("size", "sha256"):
        if facts[name] != manifest["artifact"][name]:
            raise Refused(
                f"its artifact has {name} {facts[name]}, the manifest says {manifest['artifact'][name]}"
            )


def check_libraries(manifest: Mapping[str, Any]) -> None:
    """Python and scikit-learn must be of the same minor version: neither promises that another reads its pickles."""
    here = library_versions()
    for name in ("python", "scikit-learn"):
        trained = manifest["libraries"][name]
        if trained.split(".")[:2] != here[name].split(".")[:2]:
            raise Refused(
                f"it was trained with {name} {trained}, here is {here[name]}: train again, or install {trained}"
            )


def check_parts(artifact: Mapping[str, Any]) -> None:
    """All parts are there, of their kind, of sizes that fit each other and that scoring can allocate by."""
    from models.train.calibrate import Calibrator  # noqa: PLC0415  # brings scipy

    if missing := [key for key in KEYS if key not in artifact]:
        raise Refused(f"its artifact lacks {', '.join(missing)}")
    features, scaler, selector, calibrator = (
        artifact[key] for key in ("features", "scaler", "feature_selector", "calibrator")
    )
    if not isinstance(features, FittedFeatures):
        raise Refused("its artifact's features are of another kind")
    outputs = features.specification.outputs
    k = len(outputs)
    if max(k, len(features.specification.inputs)) > _MOST_FEATURES or artifact[
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
    for steps in (calibrator.intervals, *calibrator.incomplete):
        pairs += [(steps.p0, steps.p1), (steps.p0[1:], steps.scores)]
    if any(one.ndim != 1 or one.shape != other.shape for one, other in pairs):
        raise Refused("its artifact's tables are not whole")
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
    """Every walk over k features ends in a leaf, and the tables that scoring makes of the trees are not too large."""
    from models.serve.forest import Forest, pack  # noqa: PLC0415  # brings scipy

    # A file may name one tree many times: counted before the trees are put together.
    trees = (
        [] if isinstance(model, Forest) else [estimator.tree_ for estimator in model.estimators_]
    )
    if sum(tree.node_count for tree in trees) > _MOST_NODES:
        raise Refused("its artifact's forest is too large")
    forest = pack(model)
    if len(forest.value) * k > _MOST_CONTRIBUTIONS:
        raise Refused("its artifact's forest is too large")
    forest.check(k)


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
    if not isinstance(golden, list) or not 0 < len(golden) <= _MOST_GOLDEN_ROWS:
        raise Refused(f"its manifest must have 1 to {_MOST_GOLDEN_ROWS:,} golden rows")
    as_of = np.array([row["as_of"] for row in golden], dtype=np.int64)
    scores = model.score(columns_of([row["state"] for row in golden]), as_of)
    for name in _GOLDEN:
        for i, (said, is_) in enumerate(
            zip((row[name] for row in golden), getattr(scores, name).tolist(), strict=True)
        ):
            if said != is_:
                raise Refused(
                    f"golden row {i + 1} comes out with {name} {is_!r}, the manifest says {said!r}"
                )


def golden_rows(
    model: "Model", states: list[dict[str, Any]], as_of: list[int]
) -> list[dict[str, Any]]:
    """What check_golden_rows compares later: n lead states and moments with what the model says of them."""
    scores = model.score(columns_of(states), np.array(as_of, dtype=np.int64))
    said = {name: getattr(scores, name).tolist() for name in _GOLDEN}
    return [
        {"state": state, "as_of": moment, **{name: said[name][i] for name in _GOLDEN}}
        for i, (state, moment) in enumerate(zip(states, as_of, strict=True))
    ]
