"""Which GPUs a worker may use, as CUDA reads CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

from typing import Any

import pytest

from sluicegate.workers.probes.devices import Choice, Listed, choose

A, B, C = "GPU-aaaa1111", "GPU-aaab2222", "GPU-cccc3333"
ALIKE = (Listed(A, 0, "H100"), Listed(B, 1, "H100"), Listed(C, 2, "H100"))
MIXED = (Listed(A, 0, "A2"), Listed(B, 1, "H100"))
DIVIDED = (Listed(A, 0, "H100"), Listed("MIG-1", 1, "H100", is_mig=True), Listed("MIG-2", 1, "H100", is_mig=True))
PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("listed", "environ", "uuids"),
    [
        (ALIKE, {}, [A, B, C]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": ""}, []),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1"}, [B]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "2, 0"}, [C, A]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, [B]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1,x,0"}, [B]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1,9,0"}, [B]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1,0,1"}, []),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": f"{C},{A}"}, [C, A]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}, [A]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": f"{C},GPU-aaa"}, [C]),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": f"{A},{A}"}, []),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": f"{A},1"}, [A]),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "0"}, [A, B]),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "0"} | PCI, [A]),
        (DIVIDED, {}, [A, "MIG-1", "MIG-2"]),
        (DIVIDED, {"CUDA_VISIBLE_DEVICES": "MIG-2,MIG-1"}, ["MIG-2"]),
        (DIVIDED, {"CUDA_VISIBLE_DEVICES": "0"}, [A, "MIG-1", "MIG-2"]),
        ((), {"CUDA_VISIBLE_DEVICES": "0"}, []),
    ],
)
def test_the_devices_are_those_that_cuda_would_give(listed: Any, environ: dict[str, str], uuids: list[str]) -> None:
    assert choose(listed, environ).uuids == tuple(uuids)


def test_a_uuid_that_is_named_and_not_listed_is_missing_and_ends_the_list() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": f"{B},GPU-gone,{A}"}
    assert choose(ALIKE, environ) == Choice((B,), missing=("GPU-gone",))


def test_a_number_beyond_the_last_gpu_is_missing_where_numbers_are_nvmls() -> None:
    assert choose(MIXED, {"CUDA_VISIBLE_DEVICES": "1,2"} | PCI) == Choice((B,), missing=("2",))


def test_numbers_on_mixed_cards_are_not_guessed_and_that_is_said() -> None:
    (note,) = choose(MIXED, {"CUDA_VISIBLE_DEVICES": "0"}).notes
    assert "CUDA_DEVICE_ORDER" in note
