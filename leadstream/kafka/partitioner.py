"""The partition of a key, as Java clients and our producers choose it: murmur2."""

_MULTIPLIER, _SEED, _BITS = 0x5BD1E995, 0x9747B28C, 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key in a topic with that many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return the hash of Kafka's DefaultPartitioner, unsigned, 32 bits.

    https://github.com/aappleby/smhasher/blob/master/src/MurmurHash2.cpp with Kafka's seed.
    """
    mixed = (_SEED ^ len(data)) & _BITS
    aligned = len(data) - len(data) % 4
    for at in range(0, aligned, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _MULTIPLIER & _BITS
        word = (word ^ word >> 24) * _MULTIPLIER & _BITS
        mixed = mixed * _MULTIPLIER & _BITS ^ word
    if rest := data[aligned:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _BITS
    mixed = (mixed ^ mixed >> 13) * _MULTIPLIER & _BITS
    return mixed ^ mixed >> 15
