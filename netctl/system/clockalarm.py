"""Reports at once that this host has been suspended, or that its wall clock was set.

asyncio counts its timeouts by CLOCK_MONOTONIC, which stands still in suspend: after it, a timeout of ten seconds has as
many seconds left as before. A timer of the wall clock that is cancelled by jumps of that clock (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET) becomes readable as the kernel resumes: to it, suspend is such a jump. Python has timerfd since
3.13 only, so this is ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_LONG_MAX = (1 << (8 * ctypes.sizeof(ctypes.c_long) - 1)) - 1


class _Itimerspec(ctypes.Structure):
    """Interval and first expiry, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class ClockAlarm:
    """A file descriptor that is readable after a jump of the wall clock, suspend included, until `acknowledge`."""

    def __init__(self) -> None:
        """Raises OSError where the system has no such timer."""
        if not hasattr(_LIBC, "timerfd_create"):
            raise OSError(errno.ENOSYS, "no timerfd_create in this C library")
        self._fd = int(_LIBC.timerfd_create(time.CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        never = _Itimerspec(0, 0, _LONG_MAX, 0)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        if _LIBC.timerfd_settime(self._fd, flags, ctypes.byref(never), None) < 0:
            error = OSError(ctypes.get_errno(), "timerfd_settime")
            self.close()
            raise error

    def fileno(self) -> int:
        """For select and event loops."""
        return self._fd

    def acknowledge(self) -> bool:
        """Whether the clock has jumped since the last call; the next jump is reported anew."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        return True

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self._fd)
