"""`GET /admin/demand`: the minutes in which requests were refused, or waited for a model."""

import time
from contextlib import aclosing

from litestar import get

from nebula.actors.gateway.actor import Gateway
from nebula.events.demand import DemandRecord
from nebula.history import moments
from nebula.history.moments import BadMoment
from nebula.history.unmet_demand import RecordedDemand, recorded
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading
from nebula.http.scanning import Scans
from nebula.store.connection import Unavailable
from nebula.store.demand import DemandStore


@get("/admin/demand")
async def show_demand(
    gateway: Gateway, scans: Scans, since: str | None = None, until: str | None = None
) -> list[RecordedDemand]:
    """Show for each model in which minutes requests were refused, or waited until it served."""
    begin, end = (_time(name, text) for name, text in (("since", since), ("until", until)))
    found: list[DemandRecord] = []
    try:
        async with reading(scans) as scan, aclosing(DemandStore(gateway.connection).all()) as all_:
            began = time.monotonic()
            async for each in all_:
                if (begin is None or each.time >= begin) and (end is None or each.time < end):
                    found.append(each)
                await scan.worked(time.monotonic() - began)
                began = time.monotonic()
    except Unavailable as error:
        raise unavailable(str(error)) from error
    return recorded(found)


def _time(name: str, text: str | None) -> int | None:
    """Return a bound of the window in ns since 1970. Raise ApiError."""
    if text is None:
        return None
    try:
        moment = moments.parse(text, time.time_ns())
    except BadMoment as error:
        raise ApiError(400, f"{name}: {error}", param=name) from error
    if moment.seq is not None:
        raise ApiError(400, f"{name}: give a time, or how long ago (7d)", param=name)
    return moment.time
