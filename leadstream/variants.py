"""The split of leads between two models, by lead id alone: a lead stays with its variant."""

from hashlib import blake2b

CHAMPION, CHALLENGER = "champion", "challenger"


def challenged(lead_id: str, share: float) -> bool:
    """Return whether a lead is among the `share` (0..1) of leads that the challenger scores.

    Its place is the first 8 bytes of the 64-byte BLAKE2b of its id in UTF-8, big-endian, over 2^64;
    below the share it belongs to the challenger. Every process decides alike, whatever partitions
    it has, and a larger share only moves leads to the challenger.
    """
    place = int.from_bytes(blake2b(lead_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return place < share * 2**64
