"""Spans of time as the command line shows them."""

from __future__ import annotations


def spell(span_s: float) -> str:
    """`4.2s`, `45s`, `3m12s`, `2h05m`, `3d04h`: two units at most; for people, not for parsing back."""
    if span_s < 10:
        return f"{max(0.0, span_s):.1f}s"
    whole = int(span_s)
    for unit, below, seconds, part in (("d", "h", 86_400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= seconds:
            return f"{whole // seconds}{unit}{whole % seconds // part:02d}{below}"
    return f"{whole}s"
