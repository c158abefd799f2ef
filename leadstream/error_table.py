"""The table of what an error is about: one record, a server, a client, or the set-up.

It has every code of librdkafka, Kafka's brokers and Postgres. What each entry costs:

    RECORD   that record, row or value only: a dead letter, or a skipped and counted row
    SERVER   a wait, under the name of the server, until it answers again
    CLIENT   that client: it is closed, and a new one joins
    SETUP    a stop with one sentence: a person must change the database or a setting
"""

from enum import Enum

from confluent_kafka import KafkaError


class About(Enum):
    """The subject of an error."""

    RECORD = "record"
    SERVER = "server"
    CLIENT = "client"
    SETUP = "setup"


# Records that the client or a broker does not accept, or that a client cannot read.
_RECORD_CODES = {
    KafkaError._BAD_MSG,
    KafkaError._BAD_COMPRESSION,
    KafkaError._NOT_IMPLEMENTED,  # of a batch: compressed by a method that this client lacks
    KafkaError._KEY_SERIALIZATION,
    KafkaError._VALUE_SERIALIZATION,
    KafkaError._KEY_DESERIALIZATION,
    KafkaError._VALUE_DESERIALIZATION,
    KafkaError._PARTIAL,
    KafkaError._UNDERFLOW,
    KafkaError._INVALID_DIFFERENT_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    KafkaError.INVALID_RECORD,
}
# A client that stays unusable.
_CLIENT_CODES = {
    KafkaError._DESTROY,
    KafkaError._CRIT_SYS_RESOURCE,
    KafkaError._FATAL,
    KafkaError._FENCED,
    KafkaError._INCONSISTENT,
    KafkaError._GAPLESS_GUARANTEE,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.DUPLICATE_SEQUENCE_NUMBER,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.PRODUCER_FENCED,
}
# A group, a topic, a permission or a node: it may come back, and the reason says how.
_SERVER_CODES = {
    *range(KafkaError._BAD_MSG, KafkaError._DESTROY_BROKER + 1),
    *range(KafkaError.UNKNOWN, KafkaError.SHARE_SESSION_LIMIT_REACHED + 1),
}
KAFKA = {
    **dict.fromkeys(_SERVER_CODES, About.SERVER),
    **dict.fromkeys(_CLIENT_CODES, About.CLIENT),
    **dict.fromkeys(_RECORD_CODES, About.RECORD),
}

_CLASSES = {
    About.RECORD: "00 01 02 03 09 0Z 10 20 21 22 23 27 2F 38 39 44 54 P0",
    About.SERVER: "08 0B 25 28 3D 40 53 55 57 58 72 F0 HV XX",
    About.SETUP: "0A 0F 0L 0P 24 26 2B 2D 34 3B 3F 42",
}
# SQLSTATEs: the first two characters name a class, and a whole code counts more than its class.
POSTGRES = {
    **{part: about for about, classes in _CLASSES.items() for part in classes.split()},
    "40002": About.RECORD,  # a constraint that is checked at the commit
    "55000": About.RECORD,  # a trigger that reads a record without a value
}


def about_kafka(code: int) -> About:
    """Return what an error code of the client or of a broker is about.

    A code that is newer than this table is about the brokers.
    """
    return KAFKA.get(code, About.SERVER)


def about_sqlstate(sqlstate: str) -> About:
    """Return what a SQLSTATE is about.

    A class that Postgres does not have was raised by a function or trigger of the database, so it
    is about the row.
    """
    return POSTGRES.get(sqlstate) or POSTGRES.get(sqlstate[:2], About.RECORD)
