"""Kafka to be broken: one node, or three with replication 3 and min ISR 2, each with a log that can
be read.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from leadstream.local.kafka import KafkaProcess, cluster_id, fetch_jars, find_java
from leadstream.local.process import Say, free_ports, scratch

_NODE = """\
node.id={node}
controller.quorum.voters={voters}
default.replication.factor={replication}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replication}
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={in_sync}
group.consumer.min.session.timeout.ms=1500
group.consumer.session.timeout.ms=1500
group.consumer.min.heartbeat.interval.ms=300
group.consumer.heartbeat.interval.ms=300
"""


@dataclass(frozen=True, slots=True)
class BrokerCluster:
    """The nodes of a cluster, and the folders of their logs."""

    nodes: tuple[KafkaProcess, ...]
    data: tuple[Path, ...]

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def replication(self) -> int:
        return len(self.nodes)

    def start(self) -> None:
        """Start every node that is not running; no node of several serves before its controllers
        have a quorum.
        """
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.pid or node.start(seconds=120), self.nodes))


@contextlib.contextmanager
def kafka_cluster(count: int, say: Say) -> Iterator[BrokerCluster]:
    """A started cluster of `count` nodes with new, empty storage; raises UserError where there is
    no Java or Maven.
    """
    program, jars = find_java(), fetch_jars(say)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(scratch(f"kafka-{node + 1}")) for node in range(count)]
        ports = free_ports(2 * count)
        voters = ",".join(f"{node + 1}@127.0.0.1:{ports[2 * node + 1]}" for node in range(count))
        cluster, in_sync = cluster_id(), count // 2 + 1
        nodes = [
            KafkaProcess(
                folder,
                jars,
                program,
                ports=(ports[2 * node], ports[2 * node + 1]),
                cluster=cluster,
                properties=_NODE.format(
                    node=node + 1, voters=voters, replication=count, in_sync=in_sync
                ),
            )
            for node, folder in enumerate(folders)
        ]
        for node in nodes:
            stack.callback(node.kill)
        made = BrokerCluster(tuple(nodes), tuple(folder / "data" for folder in folders))
        made.start()
        yield made
