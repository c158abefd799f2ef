"""Properties of librdkafka: those whose value may be shown, and those that would run code."""

import re

_HARMLESS = """
allow.auto.create.topics api.version.fallback.ms api.version.request
api.version.request.timeout.ms auto.commit.interval.ms auto.offset.reset batch.num.messages
batch.size broker.address.family broker.address.ttl broker.version.fallback builtin.features
check.crcs client.dns.lookup client.id client.rack compression.codec compression.level
compression.type connections.max.idle.ms consume.callback.max.messages
coordinator.query.interval.ms debug delivery.timeout.ms enable.auto.commit
enable.auto.offset.store enable.gapless.guarantee enable.idempotence enable.metrics.push
enable.partition.eof enable.random.seed enable.sasl.oauthbearer.unsecure.jwt
enable.sparse.connections enable.ssl.certificate.verification fetch.error.backoff.ms
fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms
group.instance.id group.protocol group.protocol.type group.remote.assignor heartbeat.interval.ms
https.ca.location internal.termination.signal isolation.level linger.ms log.connection.close
log.queue log.thread.name max.in.flight max.in.flight.requests.per.connection
max.partition.fetch.bytes max.poll.interval.ms message.copy.max.bytes message.max.bytes
message.send.max.retries message.timeout.ms metadata.max.age.ms
metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
partition.assignment.strategy partitioner produce.offset.report
queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages queuing.strategy
receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms
reconnect.backoff.ms  request.timeout.ms retries retry.backoff.max.ms
retry.backoff.ms acks sasl.kerberos.keytab sasl.kerberos.min.time.before.relogin
sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism sasl.mechanisms
sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.jwt.template.file
sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.client.credentials.client.id
sasl.oauthbearer.client.id sasl.oauthbearer.grant.type
sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method sasl.oauthbearer.scope
sasl.username security.protocol session.timeout.ms socket.blocking.max.ms
socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms ssl.ca.certificate.stores
ssl.ca.location ssl.certificate.location ssl.cipher.suites ssl.crl.location ssl.curves.list
ssl.endpoint.identification.algorithm ssl.key.location ssl.keystore.location ssl.sigalgs.list
statistics.interval.ms sticky.partitioning.linger.ms topic.blacklist
topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms
topic.metadata.refresh.sparse transaction.timeout.ms
"""
# The value of every other property is masked: a mistyped name may hold a secret.
HARMLESS = frozenset(_HARMLESS.split())
# Their values are URLs, whose passwords are masked.
ADDRESSES = frozenset({"sasl.oauthbearer.token.endpoint.url"})

RUNS_CODE = {
    "plugin.library.paths": "it loads a library into this process; unset it",
    "ssl.engine.location": "it loads a library into this process; unset it",
    "ssl.engine.id": "it loads a library into this process; unset it",
    "ssl.providers": "it loads a library into this process; unset it",
    "sasl.kerberos.kinit.cmd": "it runs a command; run kinit, or k5start, next to this process",
}
# The client's own kinit command contains them, and a shell reads it.
_IN_COMMAND = "sasl.kerberos."
_PLAIN = re.compile(r"[\w@/.:+-]*")


_OAUTH_KEYS = "principal|principalClaimName|scope|scopeClaimName|lifeSeconds|extension_[A-Za-z]+"
_OAUTH_CONFIG = re.compile(
    rf"(?:(?:{_OAUTH_KEYS}|query|params)=[^ ]+)(?: +(?:{_OAUTH_KEYS}|query|params)=[^ ]+)* *"
)
_ENDPOINT = re.compile(r"https?://[^\s@/?#]+(?:/[^\s@?#]*)?")


def why_it_shows(key: str, value: str) -> str | None:
    """Return why the client would repeat a secret of this property in an error, and the fix."""
    if key in ADDRESSES and not _ENDPOINT.fullmatch(value):
        return "write it as https://host/path, without a user, a password or a query"
    if key == "sasl.oauthbearer.config" and not _OAUTH_CONFIG.fullmatch(value):
        return "write it as principal=NAME scope=NAMES, with one space between two of them"
    return None


def why_it_runs_code(key: str, value: str) -> str | None:
    """Return why this property could run code of a stranger, and what to do; None if it cannot."""
    if key.startswith(_IN_COMMAND) and key not in RUNS_CODE and not _PLAIN.fullmatch(value):
        return "a shell reads it; use letters, digits and @ / . : + - only"
    return RUNS_CODE.get(key)
