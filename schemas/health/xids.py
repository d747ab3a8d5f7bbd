"""NVIDIA's Xid codes: which error of a GPU holds its worker, which is the application's own, and which only warns.

`name` and `source` are NVIDIA's: the mnemonic and the immediate action of its catalogue (`CATALOGUE`); where that says
nothing, the source says where the verdict is from. NVML's event tells the code alone, none of its details.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

CATALOGUE = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"

REPEATED_AT = 2
REPEATED_WITHIN_H = 24


class XidVerdict(StrEnum):
    """What a code means for new work."""

    HOLD = "hold"
    FATAL = "fatal"
    """It holds where the driver's own verdict (NVML's field 230) asks for something, and warns where not."""
    WARN = "warn"
    REPEATED = "repeated"
    """The application's own; told of where one GPU had several within a day."""
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Xid:
    """One row: the code, NVIDIA's mnemonic, what it means here, and where that is from."""

    code: int
    name: str
    verdict: XidVerdict
    source: str


HOLD, FATAL, WARN, REPEATED, IGNORE = (
    XidVerdict.HOLD,
    XidVerdict.FATAL,
    XidVerdict.WARN,
    XidVerdict.REPEATED,
    XidVerdict.IGNORE,
)
_APP = "catalogue: RESTART_APP"
_RESET = "catalogue: RESET_GPU"
_IGNORE = "catalogue: IGNORE"
_NVLINK5 = "catalogue: WORKFLOW_NVLINK5_ERR, by its severity"
_NOT_SAID = "catalogue: no action given"

_TABLE = (
    Xid(8, "ROBUST_CHANNEL_FIFO_ERROR_IDLE_TIMEOUT", IGNORE, _APP),
    Xid(11, "ROBUST_CHANNEL_GR_ERROR_MISSING_HW", IGNORE, _APP),
    Xid(13, "ROBUST_CHANNEL_GR_EXCEPTION", REPEATED, "catalogue: RESTART_APP; in rare cases hardware"),
    Xid(14, "ROBUST_CHANNEL_FAKE_ERROR", WARN, "catalogue: IGNORE, injected from user space"),
    Xid(25, "ROBUST_CHANNEL_GR_ILLEGAL_NOTIFY", IGNORE, _APP),
    Xid(31, "ROBUST_CHANNEL_FIFO_ERROR_MMU_ERR_FLT", REPEATED, "catalogue: RESTART_APP; can be hardware"),
    Xid(32, "ROBUST_CHANNEL_PBDMA_ERROR", IGNORE, _APP),
    Xid(37, "ROBUST_CHANNEL_FECS_ERR_UNIMP_FIRMWARE_METHOD", WARN, _IGNORE),
    Xid(38, "ROBUST_CHANNEL_FECS_ERR_WATCHDOG_TIMEOUT", WARN, _IGNORE),
    Xid(39, "ROBUST_CHANNEL_CE0_ERROR", IGNORE, _APP),
    Xid(40, "ROBUST_CHANNEL_CE1_ERROR", IGNORE, _APP),
    Xid(41, "ROBUST_CHANNEL_CE2_ERROR", IGNORE, _APP),
    Xid(43, "ROBUST_CHANNEL_RESETCHANNEL_VERIF_ERROR", IGNORE, "catalogue: IGNORE, the GPU remains healthy"),
    Xid(44, "ROBUST_CHANNEL_GR_FAULT_DURING_CTXSW", IGNORE, _IGNORE),
    Xid(45, "ROBUST_CHANNEL_PREEMPTIVE_REMOVAL", IGNORE, "catalogue: follow the other Xid"),
    Xid(46, "ROBUST_CHANNEL_GPU_TIMEOUT_ERROR", HOLD, _RESET),
    Xid(48, "ROBUST_CHANNEL_GPU_ECC_DBE", HOLD, "catalogue: a reset or a reboot clears it"),
    Xid(54, "SILENT_RUNNING_PWR_REDUCED_CLOCKING", HOLD, "catalogue: CHECK_MECHANICALS, no auxiliary power"),
    Xid(60, "ROBUST_CHANNEL_SEC2_ERROR", IGNORE, _APP),
    Xid(62, "PMU_HALT_ERROR", HOLD, _RESET),
    Xid(63, "INFOROM_DRAM_RETIREMENT_EVENT", IGNORE, _IGNORE),
    Xid(64, "INFOROM_DRAM_RETIREMENT_FAILURE", HOLD, _RESET),
    Xid(66, "ROBUST_CHANNEL_FECS_ERR_REG_ACCESS_VIOLATION", IGNORE, _IGNORE),
    Xid(67, "ROBUST_CHANNEL_FECS_ERR_VERIF_VIOLATION", IGNORE, _IGNORE),
    Xid(68, "ROBUST_CHANNEL_NVDEC0_ERROR", IGNORE, _APP),
    Xid(69, "ROBUST_CHANNEL_GR_CLASS_ERROR", IGNORE, _APP),
    Xid(70, "ROBUST_CHANNEL_CE3_ERROR", IGNORE, _APP),
    Xid(71, "ROBUST_CHANNEL_CE4_ERROR", IGNORE, _APP),
    Xid(72, "ROBUST_CHANNEL_CE5_ERROR", IGNORE, _APP),
    Xid(74, "NVLINK_ERROR", HOLD, "catalogue: a reset or a reboot clears it"),
    Xid(75, "ROBUST_CHANNEL_CE6_ERROR", IGNORE, _APP),
    Xid(76, "ROBUST_CHANNEL_CE7_ERROR", IGNORE, _APP),
    Xid(77, "ROBUST_CHANNEL_CE8_ERROR", IGNORE, _APP),
    Xid(78, "VGPU_START_ERROR", WARN, "catalogue: UPDATE_SWFW"),
    Xid(79, "ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS", HOLD, "catalogue: RESTART_BM"),
    Xid(80, "PBDMA_PUSHBUFFER_CRC_MISMATCH", IGNORE, _APP),
    Xid(82, "ROBUST_CHANNEL_NVJPG0_ERROR", IGNORE, _APP),
    Xid(83, "ROBUST_CHANNEL_NVDEC1_ERROR", IGNORE, _APP),
    Xid(84, "ROBUST_CHANNEL_NVDEC2_ERROR", IGNORE, _APP),
    Xid(85, "ROBUST_CHANNEL_CE9_ERROR", IGNORE, _APP),
    Xid(86, "ROBUST_CHANNEL_OFA0_ERROR", IGNORE, _APP),
    Xid(88, "ROBUST_CHANNEL_NVDEC3_ERROR", IGNORE, _APP),
    Xid(89, "ROBUST_CHANNEL_NVDEC4_ERROR", IGNORE, _APP),
    Xid(92, "EXCESSIVE_SBE_INTERRUPTS", IGNORE, _IGNORE),
    Xid(93, "INFOROM_ERASE_LIMIT_EXCEEDED", IGNORE, _IGNORE),
    Xid(94, "ROBUST_CHANNEL_CONTAINED_ERROR", IGNORE, "catalogue: RESTART_APP, others are unaffected"),
    Xid(95, "ROBUST_CHANNEL_UNCONTAINED_ERROR", HOLD, _RESET),
    Xid(96, "ROBUST_CHANNEL_NVDEC5_ERROR", IGNORE, _APP),
    Xid(97, "ROBUST_CHANNEL_NVDEC6_ERROR", IGNORE, _APP),
    Xid(98, "ROBUST_CHANNEL_NVDEC7_ERROR", IGNORE, _APP),
    Xid(99, "ROBUST_CHANNEL_NVJPG1_ERROR", IGNORE, _APP),
    Xid(100, "ROBUST_CHANNEL_NVJPG2_ERROR", IGNORE, _APP),
    Xid(101, "ROBUST_CHANNEL_NVJPG3_ERROR", IGNORE, _APP),
    Xid(102, "ROBUST_CHANNEL_NVJPG4_ERROR", IGNORE, _APP),
    Xid(103, "ROBUST_CHANNEL_NVJPG5_ERROR", IGNORE, _APP),
    Xid(104, "ROBUST_CHANNEL_NVJPG6_ERROR", IGNORE, _APP),
    Xid(105, "ROBUST_CHANNEL_NVJPG7_ERROR", IGNORE, _APP),
    Xid(106, "SMBPBI_TEST_MESSAGE", IGNORE, _IGNORE),
    Xid(107, "SMBPBI_TEST_MESSAGE_SILENT", IGNORE, _IGNORE),
    Xid(108, "NVLINK_REMOTE_TRANSLATION_ERROR", WARN, "catalogue: unused"),
    Xid(109, "ROBUST_CHANNEL_CTXSW_TIMEOUT_ERROR", HOLD, "catalogue: RESET_GPU (the device plugin leaves it out)"),
    Xid(110, "SEC_FAULT_ERROR", HOLD, _RESET),
    Xid(119, "GSP_RPC_TIMEOUT", HOLD, _RESET),
    Xid(120, "GSP_ERROR", HOLD, _RESET),
    Xid(121, "C2C_ERROR", IGNORE, "catalogue: IGNORE, corrected, no operational impact"),
    Xid(126, "ROBUST_CHANNEL_CE10_ERROR", IGNORE, _APP),
    Xid(127, "ROBUST_CHANNEL_CE11_ERROR", IGNORE, _APP),
    Xid(128, "ROBUST_CHANNEL_CE12_ERROR", IGNORE, _APP),
    Xid(129, "ROBUST_CHANNEL_CE13_ERROR", IGNORE, _APP),
    Xid(130, "ROBUST_CHANNEL_CE14_ERROR", IGNORE, _APP),
    Xid(131, "ROBUST_CHANNEL_CE15_ERROR", IGNORE, _APP),
    Xid(132, "ROBUST_CHANNEL_CE16_ERROR", IGNORE, _APP),
    Xid(133, "ROBUST_CHANNEL_CE17_ERROR", IGNORE, _APP),
    Xid(134, "ROBUST_CHANNEL_CE18_ERROR", IGNORE, _APP),
    Xid(135, "ROBUST_CHANNEL_CE19_ERROR", IGNORE, _APP),
    Xid(136, "ALI_TRAINING_FAIL", HOLD, _RESET),
    Xid(137, "NVLINK_PRIV_ERR", IGNORE, "catalogue: IGNORE, typically the application's"),
    Xid(139, "ROBUST_CHANNEL_OFA1_ERROR", IGNORE, _APP),
    Xid(140, "UNRECOVERABLE_ECC_ERROR_ESCAPE", HOLD, _RESET),
    Xid(141, "ROBUST_CHANNEL_FAST_PATH_ERROR", IGNORE, _IGNORE),
    Xid(142, "ROBUST_CHANNEL_NVENC3_ERROR", HOLD, "catalogue: CONTACT_SUPPORT"),
    Xid(143, "GPU_INIT_ERROR", HOLD, _RESET),
    Xid(144, "NVLINK_SAW_ERROR", FATAL, _NVLINK5),
    Xid(145, "NVLINK_RLW_ERROR", FATAL, _NVLINK5),
    Xid(146, "NVLINK_TLW_ERROR", FATAL, _NVLINK5),
    Xid(147, "NVLINK_TREX_ERROR", FATAL, _NVLINK5),
    Xid(148, "NVLINK_NVLPW_CTRL_ERROR", FATAL, _NVLINK5),
    Xid(149, "NVLINK_NETIR_ERROR", FATAL, _NVLINK5),
    Xid(150, "NVLINK_MSE_ERROR", FATAL, _NVLINK5),
    Xid(151, "ROBUST_CHANNEL_KEY_ROTATION_ERROR", HOLD, "catalogue: RESTART_VM"),
    Xid(152, "ROBUST_CHANNEL_DLA_SMMU_ERROR", IGNORE, _IGNORE),
    Xid(153, "ROBUST_CHANNEL_DLA_TIMEOUT", IGNORE, _IGNORE),
    Xid(154, "GPU_RECOVERY_ACTION_CHANGED", IGNORE, "catalogue: informational; gpu.recovery reads what it tells of"),
    Xid(155, "NVLINK_SW_DEFINED_ERROR", HOLD, _RESET),
    Xid(156, "RESOURCE_RETIREMENT_EVENT", HOLD, _RESET),
    Xid(157, "RESOURCE_RETIREMENT_FAILURE", IGNORE, "catalogue: IGNORE, work may still run"),
    Xid(158, "GPU_FATAL_TIMEOUT", HOLD, _RESET),
    Xid(159, "ROBUST_CHANNEL_CHI_NON_DATA_ERROR", IGNORE, "catalogue: CHECK_UVM"),
    Xid(160, "CHANNEL_RETIREMENT_EVENT", IGNORE, _IGNORE),
    Xid(161, "CHANNEL_RETIREMENT_FAILURE", IGNORE, _IGNORE),
    Xid(162, "PSHC_REENGAGED", WARN, _NOT_SAID),
    Xid(163, "PSHC_DISENGAGED", WARN, "catalogue: no reset required"),
    Xid(164, "PSHC_LOW_LIFETIME", WARN, "catalogue: monitor"),
    Xid(165, "PSHC_ZERO_LIFETIME", WARN, "catalogue: replace, where power swings matter"),
    Xid(166, "NVLINK_SECURE_CRYPTO_ERR", WARN, _NOT_SAID),
    Xid(167, "PCIE_FATAL_TIMEOUT", HOLD, "catalogue: no action given; fatal by its name"),
    Xid(168, "REDUCED_GPU_MEMORY_CAPACITY", HOLD, "catalogue: enable ECC or boot again"),
    Xid(169, "SEC2_HALT_ERROR", HOLD, "catalogue: no action given; a halted controller, as 62"),
    Xid(170, "NVLINK_SECURE_OTHER", WARN, _NOT_SAID),
    Xid(171, "UNCORRECTABLE_DRAM_ERROR", WARN, "catalogue: details of Xid 48, which holds"),
    Xid(172, "UNCORRECTABLE_SRAM_ERROR", WARN, "catalogue: details of Xid 48, which holds"),
)

TABLE: Mapping[int, Xid] = {row.code: row for row in _TABLE}


def verdict_of(code: int, overrides: Mapping[int, XidVerdict]) -> XidVerdict:
    """What `code` means here; one that nobody knows warns."""
    if code in overrides:
        return overrides[code]
    return TABLE[code].verdict if code in TABLE else XidVerdict.WARN


def name_of(code: int) -> str:
    """NVIDIA's mnemonic, or what is told of a code that is not in its catalogue."""
    return TABLE[code].name if code in TABLE else "not in NVIDIA's catalogue"
