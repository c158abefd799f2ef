import numpy as np
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from leadstream.process.metrics import ManyHistogram

BUCKETS = (0.001, 0.1, 0.5, 1, 10, 300)


def test_a_batch_observed_at_once_reads_as_if_its_values_had_been_observed_one_by_one() -> None:
    one_by_one, together = CollectorRegistry(), CollectorRegistry()
    slow, fast = (
        Histogram("x", "y", buckets=BUCKETS, registry=one_by_one),
        ManyHistogram("x", "y", BUCKETS, together),
    )
    edges = [
        edge
        for bucket in BUCKETS
        for edge in (bucket, np.nextafter(bucket, 0), np.nextafter(bucket, 1e9))
    ]
    for values in (np.array(edges), np.empty(0), np.array([0.0, 301.0, 2.5, 2.5])):
        fast.observe(values)
        for value in values.tolist():
            slow.observe(value)
        read, expected = (
            generate_latest(registry).decode().splitlines() for registry in (together, one_by_one)
        )
        assert (
            read[:-1] == expected[:-1]
        )  # the last line is the sum, which is added up in another order
        assert abs(float(read[-1].split()[1]) - float(expected[-1].split()[1])) < 1e-9
