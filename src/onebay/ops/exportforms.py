"""What a disk can be exported to, and what the places that take such files ask of them (docs/export.md)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Form:
    """A format: `suffixes` of its files, the first the usual one; `driver` and `options` are qemu-img's.

    The size of the disk must be a multiple of `multiple` bytes. `plain`: what is unpacked is the raw disk,
    so that a bmap describes it.
    """

    name: str
    suffixes: tuple[str, ...]
    driver: str = ""
    options: tuple[str, ...] = ()
    multiple: int = 1
    plain: bool = False


FORMS = MappingProxyType(
    {
        form.name: form
        for form in (
            Form("raw", (".img", ".raw"), plain=True),
            Form("img.gz", (".img.gz", ".raw.gz"), plain=True),
            Form("img.xz", (".img.xz", ".raw.xz"), plain=True),
            Form("qcow2", (".qcow2",), "qcow2", ("-c", "-o", "compression_type=zlib")),
            Form("qcow2-zstd", (".qcow2",), "qcow2", ("-c", "-o", "compression_type=zstd")),
            # force_size: qemu would round to a number of cylinders; 1 MiB is what Azure asks for
            Form("vhd", (".vhd",), "vpc", ("-o", "subformat=fixed,force_size=on"), multiple=MIB),
            Form("vmdk", (".vmdk",), "vmdk", ("-o", "subformat=streamOptimized,adapter_type=lsilogic")),
            Form("vdi", (".vdi",), "vdi"),
            Form("tar.gz", (".tar.gz",)),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Preset:
    """What a place asks for: the format, and the disk's size in bytes.

    It must be a multiple of `multiple`, at least `least`, and at most `most`.
    """

    name: str
    form: str
    multiple: int = 1
    least: int = 0
    most: int | None = None


PRESETS = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("aliyun", "qcow2", GIB),
            Preset("aws", "vmdk"),
            Preset("azure", "vhd", MIB, least=20 * MIB, most=2040 * GIB),
            Preset("gcp", "tar.gz", GIB),
            Preset("digitalocean", "img.gz", most=100 * 10**9),
            Preset("proxmox", "qcow2"),
            Preset("esxi", "vmdk", MIB),
            Preset("virtualbox", "vdi"),
        )
    }
)


def form_of(name: str) -> Form | None:
    """Return the format that a file's name asks for, None where it asks for none."""
    lower = name.lower()
    found = [(s, form) for form in FORMS.values() for s in form.suffixes if lower.endswith(s)]
    return max(found, key=lambda pair: len(pair[0]), default=("", None))[1] if found else None
