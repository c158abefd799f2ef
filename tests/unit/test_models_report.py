import copy
import json
import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from leadstream.errors import UserError
from models.registry.versions import ModelRegistry
from models.serve.artifact import describe
from models.serve.refused import Refused
from models.train.legacy import inspect
from models.train.report import render
from tests.trained_models import TRUST, trained
from tests.unit.test_models_commands import call, store
from tests.unit.test_models_legacy import FORMULAS, NOW, UTC, audited, dumped

pytestmark = pytest.mark.slow

__all__ = ["store"]
MALICIOUS = (
    "</pre></title></svg><script>alert(1)</script>\" onload='alert(2)' --> {{ 7*7 }} $x^2$ 線\x00"
)


class Elements(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@cache
def published() -> str:
    manifest = {**trained().manifest, "version": "1.0.0", "artifact": describe(b"")}
    newest = {
        name: {"psi": 0.3, "missing": 0.1, "unseen": 0.0} for name in manifest["drift"]["inputs"]
    }
    return json.dumps({**manifest, "drift": {**manifest["drift"], "newest": newest}})


def manifest(**parts: Any) -> dict[str, Any]:
    return {**json.loads(published()), **parts}


def without(*names: str) -> dict[str, Any]:
    return {name: part for name, part in manifest().items() if name not in names}


def legacy() -> dict[str, Any]:
    done = inspect(dumped(audited(FORMULAS, "all")), UTC, NOW).trained
    assert done
    return {**done.manifest, "version": "1.1.0", "artifact": describe(b"")}


def test_a_report_shows_every_part_of_a_version() -> None:
    page = render(manifest(), "by the key abc")
    assert page.count("<svg") == 10
    assert 'lacks">' not in page
    for text in (
        "ROC curve",
        "Large drift in",
        "nothing found",
        "by the key abc",
        describe(b"")["sha256"],
    ):
        assert text in page
    metrics = manifest()["metrics"]["calibrated"]
    assert f"{metrics['brier']:.3f}" in page
    assert f"area {metrics['roc_auc']:.3f}" in page


def test_a_report_that_loads_anything_tells_others_who_reads_it() -> None:
    page = render(manifest(), "")
    assert "://" not in page
    assert "@import" not in page
    for tag, attributes in Elements(page).found:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert set(re.findall(r"url\(([^)]{1,2})", page)) <= {"#r", "#p", "#s", "#i", "#d"}
    assert "default-src 'none'" in page


def test_ids_that_two_charts_share_would_clip_one_by_the_other() -> None:
    ids = [
        attributes["id"]
        for _, attributes in Elements(render(manifest(), "")).found
        if "id" in attributes
    ]
    assert len(ids) == len(set(ids))


def test_the_same_manifest_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    import matplotlib as mpl

    first = render(manifest(), "signed")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None}):
        assert render(manifest(), "signed") == first


def malicious(value: Any) -> Any:
    """The same structure with every text and every name that is not ours made hostile."""
    if isinstance(value, dict):
        return {key: malicious(part) for key, part in value.items()}
    if isinstance(value, list):
        return [malicious(part) for part in value]
    return MALICIOUS if isinstance(value, str) else value


def test_text_of_a_manifest_never_becomes_markup() -> None:
    own = malicious(manifest())
    own["features"]["importance"] = {MALICIOUS: 0.7, f"{MALICIOUS}2": 0.3}
    own["drift"]["inputs"] = {MALICIOUS: {"kind": "number", "missing": 0.0}}
    own["drift"]["newest"] = {MALICIOUS: {"psi": 0.3, "missing": 0.1, "unseen": 0.0}}
    own["leaks"] = {"found": {MALICIOUS: MALICIOUS}, "allowed": [MALICIOUS]}
    own["grades"]["cuts"] = {MALICIOUS: 0.1}
    own["libraries"] = own["calibrators"] = {MALICIOUS: MALICIOUS}
    own["legacy"] = {"lacks": [MALICIOUS], "assumed": [MALICIOUS]}
    page = render(own, MALICIOUS)
    assert "<script" not in page
    assert "{{ 7*7 }}" in page
    calm = render(manifest(legacy={"lacks": ["x"], "assumed": ["x"]}), "")
    tags = {tag for tag, _ in Elements(page).found}
    assert tags <= {tag for tag, _ in Elements(calm).found} | {"span", "br"}
    assert not any(
        name.startswith("on") for _, attributes in Elements(page).found for name in attributes
    )


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("curves", "This version has no curves"),
        ("drift", "This version has no drift reference"),
        ("leaks", "This version was never searched for leaks"),
        ("candidates", "no candidates and no folds"),
        ("calibrators", "nothing found"),
    ],
)
def test_a_version_from_before_a_part_existed_says_so_instead_of_failing(
    missing: str, sentence: str
) -> None:
    assert sentence in render(without(missing), "")


def test_drift_that_was_never_measured_is_not_shown_as_none() -> None:
    own = manifest()
    del own["drift"]["newest"]
    page = render(own, "")
    assert "does not say how its newest leads differ" in page
    assert "No large drift" not in page


def test_an_imported_version_says_what_it_lacks() -> None:
    page = render(legacy(), "no")
    for sentence in (
        "has no metrics",
        "has no curves",
        "has no drift reference",
        "never searched",
        "It lacks",
    ):
        assert sentence in page
    assert page.count("<svg") == 1


def test_a_manifest_that_cannot_be_understood_is_refused_in_a_sentence() -> None:
    for broken in (
        without("features"),
        manifest(metrics={"calibrated": 1}),
        manifest(data=[]),
        without("recipe"),
    ):
        with pytest.raises(Refused, match="its manifest cannot be understood"):
            render(broken, "")


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_the_extra_it_says_how_to_install_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install 'leadstream\[report\]'"):
        render(manifest(), "")


def test_rendering_does_not_change_the_manifest() -> None:
    own = manifest()
    before = copy.deepcopy(own)
    render(own, "")
    assert own == before


def test_the_verb_writes_one_file_and_says_where(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = ModelRegistry(store, TRUST)
    registry.promote(registry.publish(trained()))
    assert call("models", "report") == 0
    assert "Wrote model-report-1.0.0.html" in capsys.readouterr().out
    page = (tmp_path / "model-report-1.0.0.html").read_text("utf-8")
    assert "by the key" in page
    assert call("models", "report", "1.0.0", "--output", "r.html", "--json") == 0
    stated = json.loads(capsys.readouterr().out)
    assert (stated["version"], Path(stated["file"])) == ("1.0.0", tmp_path / "r.html")
    assert Path(stated["file"]).read_text("utf-8") == page
    with pytest.raises(
        UserError, match=r"nowhere/r\.html cannot be written \(No such file or directory\)"
    ):
        call("models", "report", "1.0.0", "--output", "nowhere/r.html")
    with pytest.raises(UserError, match="no model version 9"):
        call("models", "report", "9.0.0")


def test_a_version_that_followed_outcomes_says_from_which_and_how_it_compared() -> None:
    own = manifest(
        recalibrated={"from": "1.0.0", "outcomes": 900, "base_rate": 0.2, "added": -0.4},
        against={
            "version": "1.0.0",
            "rows": 450,
            "conversions": 90,
            "log_loss": {
                "champion": 0.51,
                "candidate": 0.4321,
                "difference": -0.08,
                "standard_error": 0.01,
            },
        },
    )
    page = " ".join(render(own, "").split())
    assert "moved by -0.400 in log-odds after 900 outcomes of version 1.0.0" in page
    assert "0.4321" in page
    assert "-0.0800 ± 0.0100" in page
    del own["against"]["log_loss"]
    assert "no: too few" in render(own, "")


def test_rows_and_leads_of_the_newest_period_are_told_apart() -> None:
    made = manifest()
    judged = made["data"]["judged"]["test"]
    page = " ".join(render(made, "signed").split())
    assert judged["leads"] < judged["rows"]
    assert f"newest {judged['rows']:,} rows of {judged['leads']:,} leads" in page


def test_warnings_and_what_was_left_out_are_in_the_report() -> None:
    inputs = {
        "left_out": {"created_month": "not seen in an earlier year"},
        "groups": {},
        "best_alone": {"name": "numbers.visits", "roc_auc": 0.7, "better": True},
    }
    leaks = {"found": {}, "allowed": [], "warnings": {"status": "sounds like the outcome"}}
    made = manifest(inputs=inputs, leaks=leaks)
    made["calibration"] |= {"base_rate": 0.031, "shift": -2.5}
    page = " ".join(render(made, "signed").split())
    for text in (
        "created_month: not seen in an earlier year",
        "numbers.visits alone ranks better than the model",
        "status: sounds like the outcome",
        "to that of all leads, 3.1 %",
    ):
        assert text in page
