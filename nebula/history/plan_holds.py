"""Whether a plan that was shown is still the plan, although the log has gone on. Pure."""

from nebula.history.change_plan import ChangePlan, sentences

SHOWN = 3
"""Lines of what is otherwise that a message has room for."""


def differs(shown: ChangePlan, now: ChangePlan) -> tuple[str, ...]:
    """Return what is otherwise in the plan of now, in lines; nothing if both come to the same.

    Figures and reasons don't count: engines that start and downloads that go on change those all
    the time, and not what would be done.
    """
    if _outcome(shown) == _outcome(now):
        return ()
    was, becomes = _lines(shown), _lines(now)
    found = [each for each in becomes if each not in was]
    found += [f"not any more: {each}" for each in was if each not in becomes]
    return tuple(found[:SHOWN]) or ("its places",)


def _outcome(plan: ChangePlan) -> object:
    """Return what a plan comes to, without its figures."""
    effects = [
        (each.kind, each.model, each.replica, each.node, each.devices)
        for each in plan.effects
        if not each.anyway
    ]
    lacks = [(each.model, each.missing) for each in plan.lacks if not each.anyway]
    refused = [(each.id, each.type) for each in plan.refused]
    return plan.changes, effects, lacks, refused, plan.displaced


def _lines(plan: ChangePlan) -> list[str]:
    """Return the lines of a plan beside its headings."""
    return [each.strip() for each in sentences(plan) if each.startswith("  ")]
