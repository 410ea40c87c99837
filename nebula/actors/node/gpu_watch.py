"""Watches how much memory of each GPU is free, apart from whatever a hanging driver could delay."""

import asyncio
import logging

from nebula.actors.node import devices
from nebula.events.values import Device

log = logging.getLogger(__name__)


class GpuWatch:
    """Looks at the GPUs of an inventory from time to time. `free`: bytes of each, in order."""

    def __init__(self, inventory: tuple[Device, ...], every: float) -> None:
        self._any = any(device.kind == "gpu" for device in inventory)
        self._every = every
        self.free: tuple[int, ...] = ()

    async def run(self) -> None:
        """Look until cancelled; return at once where there is no GPU."""
        look: devices.Look[tuple[int, ...]] | None = None
        while self._any:
            try:
                hung = look
                look = look or devices.Look(devices.gpus_free)
                self.free = await asyncio.to_thread(look.found, devices.PATIENCE)
                look = None
            except devices.DriverSilent as error:
                if hung is None:
                    log.warning("%s: how much memory is free there is not known", error)
            await asyncio.sleep(self._every)
