"""Which of two models answers for a lead: by its id alone, so that a lead stays with its variant."""

from hashlib import blake2b

CHAMPION, CHALLENGER = "champion", "challenger"


def challenged(lead_id: str, share: float) -> bool:
    """Whether a lead is among the `share` (0..1) of leads that the challenger answers for.

    Its place is the first 8 bytes of the 64-byte BLAKE2b of its id in UTF-8, big-endian, over 2^64; below the share it
    is the challenger's. So every process and every restart decides alike, independent of Kafka's partitions, and a
    larger share only moves leads to the challenger.
    """
    place = int.from_bytes(blake2b(lead_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return place < share * 2**64
