"""Keeps memory that was freed for the next message, so that it need not come from the system again.

glibc gives back what is free at the end of the heap once that is more than 128 KiB, and takes a
piece above 128 KiB from the system each time. With prompts of 64 kB the first touch of new pages
took a quarter of an engine's CPU time. The largest piece that a process has freed becomes the
measure for both limits (M_MMAP_THRESHOLD in mallopt(3)), unless someone has set them.
"""

KEPT = 8 * 1024 * 1024
"""Bytes of the largest piece of the heap; up to twice as much is kept when it is free."""


def keep() -> None:
    """Let this process keep what it frees from now on."""
    bytes(KEPT)  # freed at once, and never touched
