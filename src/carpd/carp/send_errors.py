"""Failing to send demotes a host, until sending has worked again for a while. Ref: spec carp §11.1."""

from __future__ import annotations

from dataclasses import dataclass

SEND_ERROR_LIMIT = 3
"""So many consecutive failures demote, and so many successes end it. Ref: spec carp §11.1."""


@dataclass(slots=True)
class SendErrors:
    """Consecutive failures and successes of sending. Ref: OpenBSD ip_carp.c, carp_send_ad."""

    failures: int = 0
    successes: int = 0

    def count(self, failed: bool) -> bool:
        """Count one outcome; return whether the host is to be demoted for them."""
        if failed:
            self.failures, self.successes = self.failures + 1, 0
        elif self.failures < SEND_ERROR_LIMIT:
            self.failures = 0
        else:
            self.successes += 1
            if self.successes >= SEND_ERROR_LIMIT:
                self.failures = 0
        return self.failures >= SEND_ERROR_LIMIT
