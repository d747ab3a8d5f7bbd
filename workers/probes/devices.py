"""Which of a host's GPUs a process may use, as CUDA reads CUDA_VISIBLE_DEVICES. Pure: CUDA itself is never touched.

The rules are those of CUDA's programming guide ("CUDA Environment Variables"): entries are taken in turn up to the
first that is none of a device; a UUID may be cut short where it still means one device; of MIG instances a process gets
one; whoever is named twice leaves no device at all. A bare number counts devices in CUDA's order, which is NVML's only
with CUDA_DEVICE_ORDER=PCI_BUS_ID or where all cards are alike: CUDA otherwise puts the fastest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


@dataclass(frozen=True, slots=True)
class Listed:
    """A device that the driver lists: a GPU that is not divided, or one MIG instance (`is_mig`) of the GPU `index`."""

    uuid: str
    index: int
    name: str | None = None
    is_mig: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The devices to be judged. `missing`: what is named and not listed. `notes`: what should be said once."""

    uuids: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose(listed: Sequence[Listed], environ: Mapping[str, str]) -> Choice:
    """The devices that a process with this environment may use."""
    said = environ.get(VISIBLE)
    if said is None:
        return Choice(tuple(one.uuid for one in listed))
    entries = [entry.strip() for entry in said.split(",")]
    if entries[0].startswith(("GPU-", "MIG-")):
        return _by_uuid(listed, entries)
    return _by_number(listed, entries, environ.get(ORDER) == "PCI_BUS_ID")


def _by_uuid(listed: Sequence[Listed], entries: Sequence[str]) -> Choice:
    found: list[str] = []
    for entry in entries:
        fitting = [one for one in listed if one.uuid == entry] or [
            one for one in listed if one.uuid.startswith(entry) and len(entry) > len("GPU-")
        ]
        if len(fitting) > 1 or not entry.startswith(("GPU-", "MIG-")):
            break
        if not fitting:
            # CUDA goes no further either. It was there once, or is misspelled: both must be seen.
            return Choice(tuple(found), missing=(entry,))
        (one,) = fitting
        if one.uuid in found:
            return Choice((), notes=(f"{VISIBLE} names {one.uuid} twice: CUDA finds no device then",))
        found.append(one.uuid)
        if one.is_mig:
            break
    return Choice(tuple(found))


def _by_number(listed: Sequence[Listed], entries: Sequence[str], is_pci_order: bool) -> Choice:
    if any(one.is_mig for one in listed):
        # CUDA counts instances of divided GPUs in a way that it does not tell.
        return Choice(
            tuple(one.uuid for one in listed) if entries[0].isdecimal() else (),
            notes=(f"{VISIBLE} has numbers and a GPU is divided (MIG): all are judged; name MIG-… UUIDs",),
        )
    numbers: list[int] = []
    for entry in entries:
        if not entry.isdecimal() or (int(entry) >= len(listed) and not is_pci_order):
            break
        if int(entry) in numbers:
            return Choice((), notes=(f"{VISIBLE} names {entry} twice: CUDA finds no device then",))
        numbers.append(int(entry))
    if not numbers:
        return Choice(())
    if not is_pci_order and len({one.name for one in listed}) > 1:
        return Choice(
            tuple(one.uuid for one in listed),
            notes=(
                f"{VISIBLE} has numbers, the GPUs differ, and {ORDER} is not PCI_BUS_ID: which are meant is not known, "
                "so all are judged",
            ),
        )
    by_index = {one.index: one.uuid for one in listed}
    here = [number for number in numbers if number in by_index]
    gone = numbers[len(here) : len(here) + 1] if len(here) < len(numbers) else []
    return Choice(tuple(by_index[number] for number in here), missing=tuple(map(str, gone)))
