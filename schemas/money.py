"""Money and shares in whole millionths: nine times 0.1 is 0.9 here, which it is not in binary fractions."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from sluicegate.schemas.errors import InvalidInput

MILLION = 1_000_000
MOST = 10**12
"""In units of the currency: what is more is a mistake."""


def millionths(said: object, field: str) -> int:
    """`said`, a number or its text, in millionths; raises InvalidInput for one that is none, or has more decimals.

    NaN and infinities are refused: a figure that is none must be looked at, and is never zero.
    """
    if isinstance(said, bool) or not isinstance(said, int | float | str | Decimal):
        raise InvalidInput(field, f"{said!r:.40} is not a number")
    try:
        exact = Decimal(said) if not isinstance(said, float) else Decimal(repr(said))
    except InvalidOperation:
        raise InvalidInput(field, f"{said!r:.40} is not a number") from None
    if not exact.is_finite():
        raise InvalidInput(field, f"{said!r:.40} is not finite")
    if abs(exact) > MOST:
        raise InvalidInput(field, f"{said!r:.40} is out of range: at most {MOST}")
    scaled = exact * MILLION
    if scaled != scaled.to_integral_value():
        raise InvalidInput(field, f"{said!r:.40} has more than six decimals")
    return int(scaled)


def text_of(amount: int, decimals: int = 2) -> str:
    """`12.50` for 12,500,000: as many decimals as it needs, `decimals` at least."""
    whole, rest = divmod(abs(amount), MILLION)
    digits = f"{rest:06d}".rstrip("0").ljust(decimals, "0")
    return f"{'-' if amount < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def compared(part: int, whole: int, threshold: int) -> str:
    """`92.0% >= 90.0%`: a share of `whole` beside a threshold in millionths; the words never contradict the numbers.

    Rounded down to as many decimals as the threshold has: that leaves every comparison as it is.
    """
    shown = text_of(threshold * 100, 1)
    decimals = len(shown.partition(".")[2])
    scale = 10**decimals
    floor = part * 100 * scale // whole
    share = f"{floor // scale}.{floor % scale:0{decimals}d}"
    return f"{share}% {'>=' if part * MILLION >= threshold * whole else '<'} {shown}%"
