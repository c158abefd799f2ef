"""Who is let in, what each verb may do, and that no secret comes out: on a broker and a database
that mean it.
"""

import contextlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from leadstream.kafka.batch import Output
from leadstream.kafka.connection_check import ConnectionCheck
from leadstream.kafka.listener_probe import answers_as_broker
from leadstream.kafka.topics import Topics
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from leadstream.settings import load_settings
from tests.conftest import start_or_skip
from tests.faults.proxy import Proxy, proxying
from tests.integration.conftest import CrmTables
from tests.integration.outboxes import outbox_crm
from tests.integration.running import Running, Stage, until
from tests.integration.secured import Account, Grant, Secured, secured_broker

pytestmark = pytest.mark.broker
DOCS = Path(__file__).parents[2] / "docs"
PERMISSIONS = (DOCS / "reference" / "permissions.md").read_text()
SECURE = (DOCS / "how-to" / "secure.md").read_text()
NEEDS = re.compile(
    r"this account needs the permission (\w+) on (topic|group|transactional id) (\S+)$"
)
P = "LEADSTREAM_KAFKA_"
MAPPING = """
[lead]
lead_id = "id"
created_at = "created"

[outcome]
column = "converted"
true = ["1"]
false = ["0"]
"""


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """A broker for all tests here: use an account of your own."""
    with start_or_skip(secured_broker) as broker:
        yield broker


@pytest.fixture(scope="module")
def user(secured: Secured) -> Account:
    """Whose credentials are right, and who may do nothing."""
    return secured.user()


@pytest.fixture
def outside(secured: Secured, tmp_path: Path, model_store: str) -> Stage:
    """Without topics of its own: whoever is not let in does not get to them."""
    return Stage.on(secured.node.bootstrap, tmp_path, model_store, create=False)


@pytest.fixture
def stage(secured: Secured, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(secured.node.bootstrap, tmp_path, model_store)


def refused(stage: Stage, settings: dict[str, str], *words: str) -> str:
    """The one sentence of a verb that ends with exit code 2."""
    with stage.running(*words, **settings) as process:
        assert process.exit_code() == 2, process.lines()
        [sentence] = process.lines()
    assert "hunter2" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changed", "listener", "sentence"),
    [
        (
            {f"{P}SASL_PASSWORD": "wrong"},
            None,
            r"invalid credentials.*check \w+SASL_USERNAME and \w+SASL_PASSWORD",
        ),
        (
            {f"{P}SASL_USERNAME": "nobody"},
            None,
            r"invalid credentials.*check \w+SASL_USERNAME and \w+SASL_PASSWORD",
        ),
        (
            {f"{P}SASL_MECHANISM": "SCRAM-SHA-256"},
            None,
            r"supported mechanisms: SCRAM-SHA-512\).*SASL_MECHANISM",
        ),
        ({f"{P}SASL_USERNAME": ""}, None, r"sasl.username and sasl.password must be set"),
        (
            {f"{P}SSL_CA_LOCATION": "STRANGER"},
            None,
            r"cannot be trusted \(unable to get local issuer.*SSL_CA_LOCATION",
        ),
        (
            {f"{P}SSL_CA_LOCATION": ""},
            None,
            r"cannot be trusted \(unable to get local issuer.*SSL_CA_LOCATION",
        ),
        (
            {f"{P}SSL_CA_LOCATION": "/no/file"},
            None,
            r"SSL_CA_LOCATION=/no/file: there is no such file",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "SSL"},
            "EXPIRED",
            r"cannot be trusted \(certificate has expired\)",
        ),
        (
            {"host": "localhost"},
            None,
            r"certificate of localhost:\d+ .*not valid for 'localhost'.*BOOTSTRAP_SERVERS",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "PLAINTEXT"},
            None,
            r":\d+ speaks TLS: set \w+SECURITY_PROTOCOL to SSL or SASL_SSL",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "SSL"},
            None,
            r":\d+ hangs up on clients without SASL: set \w+ to SASL_SSL",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "SASL_SSL"},
            "PLAINTEXT",
            r":\d+ speaks no TLS: set \w+ to PLAINTEXT or SASL_",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
            "PLAINTEXT",
            r"not valid in current SASL.*SECURITY_PROTOCOL",
        ),
        (
            {f"{P}SECURITY_PROTOCOL": "SSL"},
            "SSL",
            r"refuse this client's certificate .*check \w+SSL_CERTIFICATE_LOC",
        ),
    ],
    ids=[
        "wrong password",
        "unknown user",
        "another mechanism",
        "no user",
        "another authority",
        "no authority",
        "no such file",
        "expired",
        "another name",
        "no TLS",
        "no SASL",
        "TLS where there is none",
        "SASL where there is none",
        "no certificate",
    ],
)
def test_who_is_not_let_in_is_told_why_at_once(
    outside: Stage,
    secured: Secured,
    user: Account,
    changed: dict[str, str],
    listener: str | None,
    sentence: str,
) -> None:
    settings = user.settings | changed
    address = secured.address(listener) if listener else settings["KAFKA_BOOTSTRAP_SERVERS"]
    settings["KAFKA_BOOTSTRAP_SERVERS"] = address.replace(
        "127.0.0.1", settings.pop("host", "127.0.0.1")
    )
    if settings[f"{P}SSL_CA_LOCATION"] == "STRANGER":
        settings[f"{P}SSL_CA_LOCATION"] = secured.strangers_authority()
    assert re.search(sentence, refused(outside, settings))


def test_a_broker_that_comes_back_while_it_is_looked_at_must_not_be_taken_for_one_with_sasl(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = kafka.bootstrap.split(":")
    with proxying() as loop:
        broker = Proxy(loop, host, int(port))
        broker.set("refuse")
        found: list[bool] = []

        def greets_at_last(address: str, *, tls: bool) -> bool:
            broker.set("pass")
            found.append(answers_as_broker(address, tls=tls))
            return found[-1]

        monkeypatch.setattr("leadstream.kafka.connection_check.answers_as_broker", greets_at_last)
        settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker.port}"}, None)
        ConnectionCheck(settings).check()
        broker.close()
    assert found == [False, True]


def test_a_certificate_of_the_authority_lets_in_and_one_of_a_stranger_does_not(
    stage: Stage, secured: Secured
) -> None:
    sentence = refused(stage, secured.bearer(secured.stranger).settings, "topics", "check")
    assert "refuse this client's certificate" in sentence
    account = secured.bearer()
    secured.grant(account, *granted("topics check", stage))
    with stage.running("topics", "check", **account.settings) as process:
        assert process.exit_code() == 0, process.lines()


@pytest.mark.parametrize(
    "words",
    [
        ("relay",),
        ("doctor",),
        ("topics", "create"),
        ("rescore", "a", "--wait"),
        ("dead-letters", "list"),
    ],
    ids=" ".join,
)
def test_every_verb_says_so_where_it_is_not_let_in(
    outside: Stage, user: Account, words: tuple[str, ...]
) -> None:
    settings = user.settings | {
        f"{P}SASL_PASSWORD": "hunter2 wrong",
        "DATABASE_URL": "postgresql://x:1/y",
    }
    with outside.running(*words, **settings) as process:
        assert process.exit_code() == (1 if words == ("doctor",) else 2)
        warnings = [line for line in process.lines() if "credentials" in line]
    assert len(warnings) == 1
    assert "hunter2" not in str(process.lines())


def test_no_secret_comes_out_however_much_is_told(stage: Stage, secured: Secured) -> None:
    account = secured.user()
    secret = account.settings[f"{P}SASL_PASSWORD"]
    loud = {"LEADSTREAM_LOG_LEVEL": "debug"}
    urls = {
        "DATABASE_URL": f"host=x password='{secret}'",
        "SCHEMA_REGISTRY_URL": f"http://a:{secret}@127.0.0.1:1",
    }
    secured.grant(account, *granted("run", stage))
    stage.send([stage.change("lead")])
    with stage.running(**account.settings | loud | urls) as process:
        process.event("batch.held", dependency="registry")
        pages = "".join(str(process.get(page)) for page in ("/readyz", "/metrics", "/model"))
        process.stop()
        sentence = "\n".join(process.lines())
    assert secret not in sentence + pages
    for words in (("config",), ("config", "--json"), ("run", "--help"), ("doctor",)):
        with stage.running(*words, **account.settings | urls) as process:
            process.exit_code()
            assert secret not in "\n".join(process.lines())


def granted(verb: str, stage: Stage) -> list[Grant]:
    """What docs/reference/permissions.md lists for a verb, with the stage's topics and group."""
    [row] = re.findall(rf"^\| `{re.escape(verb)}` \|(.*)\|$", PERMISSIONS, re.MULTILINE)
    cells = dict(zip(("TOPIC", "GROUP", "TRANSACTIONAL_ID"), row.split("|"), strict=True))
    return [
        Grant(kind, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper(), own_name(name, stage))
        for kind, cell in cells.items()
        for part in cell.split(";")
        for operation in re.findall(r"[A-Z]\w+", part.partition("`")[0])
        for name in re.findall(r"`([^`]+)`", part)
    ]


def own_name(name: str, stage: Stage) -> str:
    for field in fields(Topics):
        if name == field.default:
            return str(getattr(stage.topics, field.name))
    if name == "crm.foreign":
        return f"foreign.{stage.topics.lead_changes}"
    if name.startswith("leadstream-triage-"):
        return f"leadstream-triage-{stage.topics.dead_letter_audit}"
    return name.replace("leadstream", stage.environment["LEADSTREAM_GROUP_ID"])


@pytest.mark.postgres
def test_each_permission_that_is_missing_is_named_and_waited_for_and_all_of_them_are_listed(
    stage: Stage, secured: Secured, crm: CrmTables
) -> None:
    """From none at all: what it asks for by name is granted, and nothing else, until everything is
    done.
    """
    lead = uuid.uuid4().hex
    crm.add(lead)
    stage.send(
        [stage.change("full"), stage.change(lead, lead=None), stage.request("request", [lead])]
    )
    stage.send([Output(stage.topics.lead_changes, b"bad", b"junk")])
    listed, given = granted("run", stage), list[Grant]()
    account = secured.user()
    quick = {f"{P}TOPIC_METADATA_REFRESH_INTERVAL_MS": "500"}
    with (
        reading_role(crm) as url,
        stage.running(**account.settings | quick, DATABASE_URL=url) as process,
    ):
        process.event("started")
        while (
            needed := until(lambda: need(process, given), "it asks for a permission, or is done")
        ) != "done":
            assert needed in listed, needed
            given.append(needed)
            secured.grant(account, needed)
        assert len(stage.predictions(3)) == 3
        assert len(stage.letters(1)) == 1
        assert len(stage.results(1)) == 1
        assert process.accounting() == {
            "scored": 2,
            "dead_lettered": 1,
            "coalesced": 0,
            "erased": 0,
            "ignored": 0,
        }
        assert process.stop() == 0
        assert process.sentences() == []
    # The others are for a challenger and for drift.
    rest = {stage.topics.shadow_predictions, stage.topics.retrain_requests}
    assert {grant for grant in listed if grant.name not in rest} == set(given)


def need(process: Running, given: list[Grant]) -> Grant | str | None:
    """The permission that it waits for; None where it has not told yet, "done" once everything is
    processed.
    """
    if (
        process.metric("changes_consumed_total") == 3
        and process.metric("requests_total", fate="answered") == 1
    ):
        return "done"
    reported = NEEDS.search(process.missing().get("brokers", ""))
    grant = reported and Grant(
        reported[2].replace(" ", "_").upper(), reported[1].upper(), reported[3]
    )
    return None if grant in given else grant


@contextlib.contextmanager
def reading_role(crm: CrmTables) -> Iterator[str]:
    """The CRM's URL for a role that may do what docs/how-to/secure.md says of `run`, and nothing
    else.
    """
    role = f"reader_{uuid.uuid4().hex[:8]}"
    assert "`SELECT` on `people`, `programmes` and `campuses`, and nothing else" in SECURE
    [[schema]] = crm.connection.execute("select current_schema").fetchall()
    for statement in (
        f"create role {role} login password 'hunter2'",
        f"grant usage on schema {schema} to {role}",
        f"grant select on people, programmes, campuses to {role}",
    ):
        crm.connection.execute(statement.encode())
    try:
        yield psycopg.conninfo.make_conninfo(crm.url, user=role, password="hunter2")
    finally:
        crm.connection.execute(f"drop owned by {role}".encode())
        crm.connection.execute(f"drop role {role}".encode())


@pytest.fixture(scope="module")
def busy(
    secured: Secured, tmp_path_factory: pytest.TempPathFactory, model_store: str
) -> Iterator[Stage]:
    """A stage with an administrator's consumer, an open letter, a prediction and its outcome."""
    stage = Stage.on(secured.node.bootstrap, tmp_path_factory.mktemp("busy"), model_store)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    [made] = admin.create_topics([NewTopic(own_name("crm.foreign", stage), 1, 1)]).values()
    made.result(30)
    with stage.running() as process:
        stage.send([stage.change("good"), Output(stage.topics.lead_changes, b"bad", b"junk")])
        stage.letters(1)
        stage.predictions(1)
        yield stage
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("verb", "words", "sentence"),
    [
        ("topics create", "", "exists"),
        ("simulate", "--rate 0 --count 20 --bad-share 0.5", "20 changes sent"),
        ("rescore", "good", "1 leads sent"),
        ("rescore --wait", "good", "0 of 1 leads scored"),
        ("import", "leads.csv --mapping leads.toml --outcomes", "1 changes and 1 outcomes"),
        ("follow", "--once", "predictions"),
        ("dead-letters list", "--reason UNKNOWN_FRAMING", "UNKNOWN_FRAMING"),
        ("dead-letters replay", "--reason UNKNOWN_FRAMING --limit 1 --yes", "1 letter sent back"),
    ],
)
def test_what_is_listed_for_a_verb_is_enough(
    busy: Stage, secured: Secured, tmp_path: Path, verb: str, words: str, sentence: str
) -> None:
    account = secured.user()
    secured.grant(account, *granted(verb, busy))
    (tmp_path / "leads.csv").write_text("id,created,converted\nada,2025-03-01,1\n")
    (tmp_path / "leads.toml").write_text(MAPPING)
    words = words.replace("leads.", f"{tmp_path}/leads.")
    with busy.running(*verb.split(), *words.split(), **account.settings) as process:
        assert process.exit_code(90) == 0, process.lines()
        assert sentence in "\n".join(process.lines())


@pytest.mark.postgres
@pytest.mark.parametrize("verb", ["relay", "sink", "translate", "history write"])
def test_what_is_listed_for_a_verb_that_goes_on_is_enough(
    busy: Stage, secured: Secured, postgres: Postgres, tmp_path: Path, verb: str
) -> None:
    account = secured.user()
    secured.grant(account, *granted(verb, busy))
    foreign = own_name("crm.foreign", busy)
    words = {"translate": ("--from", foreign, "--format", "debezium")}
    busy.send([Output(foreign, b"junk", b"junk")])
    with outbox_crm(postgres.url) as crm:
        crm.add("ada")
        own = {"DATABASE_URL": crm.url, "LEADSTREAM_HISTORY": str(tmp_path / "history")}
        with busy.running(
            *verb.split(), *words.get(verb, ()), **account.settings, **own
        ) as process:
            process.event("commit" if verb == "history write" else "batch")
            assert process.missing() == {}
            assert process.stop() == 0
            assert process.sentences() == []
