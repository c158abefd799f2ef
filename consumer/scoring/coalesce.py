"""Which changes of a batch are worth scoring: the newest of each lead, by lead_version and then by offset."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from consumer.scoring.decode import Change, Erasure


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch comes down to.

    `stacks` has one list a lead, the newest change last: that one is scored, and those below are coalesced into it.
    `erasures` come with the highest version that they end, 0 where none is known. `outdated` are the messages that a
    newer erasure or a newer change made irrelevant.
    """

    stacks: list[list[Change]]
    erasures: list[tuple[Erasure, int]]
    outdated: list[int]


def coalesce(items: Iterable[Change | Erasure]) -> Plan:
    """Group the changes of a batch by lead; a version of 0 is none, and then the offsets alone decide.

    A candidate that turns out bad is a dead letter, and the one below takes its place: a bad change never costs a
    good one. A null value and a DELETED outdate all before them, and what comes later with an older version than they
    end; a DELETED is outdated itself by what is newer.
    """
    by_lead: dict[str, list[Change | Erasure]] = defaultdict(list)
    for item in items:
        by_lead[item.lead_id].append(item)
    plan = Plan([], [], [])
    for history in by_lead.values():
        stack: list[Change] = []
        erased_at = 0
        for item in history:
            if isinstance(item, Change):
                if 0 < item.lead_version < erased_at:
                    plan.outdated.append(item.index)
                else:
                    stack.append(item)
                continue
            newest = max(erased_at, *(change.lead_version for change in stack), 0)
            if 0 < item.lead_version < newest:
                plan.outdated.append(item.index)
            else:
                plan.outdated.extend(change.index for change in stack)
                stack, erased_at = [], max(newest, item.lead_version)
                plan.erasures.append((item, erased_at))
        if stack:
            # The sort is stable: among equal versions the later offset stays on top.
            stack.sort(key=lambda change: change.lead_version)
            plan.stacks.append(stack)
    return plan


def keep_all(items: Iterable[Change | Erasure]) -> Plan:
    """Every change on its own, for those who want a prediction for each."""
    plan = Plan([], [], [])
    for item in items:
        if isinstance(item, Change):
            plan.stacks.append([item])
        else:
            plan.erasures.append((item, item.lead_version))
    return plan
