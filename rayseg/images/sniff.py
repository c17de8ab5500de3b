"""Which format a file is, by its first bytes; its name and its suffix are never asked.

Only the five formats of `READ` are decoded. The others are named so that the ledger tells what has to be converted.
"""

from __future__ import annotations

from rayseg.errors import UnsupportedImage

HEAD_BYTES = 512
READ = ("JPEG", "PNG", "BMP", "WebP", "TIFF")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"SIMPLE  =", "FITS"),
    (b"qoif", "QOI"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"IIRO", "camera raw (ORF)"),
    (b"IIU\0", "camera raw (RW2)"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DDS"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"CDF\x01", "NetCDF"),
    (b"CDF\x02", "NetCDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"PAR1", "Parquet"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
)
_NETPBM = b"1234567FfHh"
_LFS = b"version https://git-lfs.github.com/spec/"


def sniff(head: bytes) -> str:
    """The format that the first bytes of a file show.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one.

    Returns:
        One of `READ`.

    Raises:
        UnsupportedImage: anything else, with what it seems to be and the remedy.
    """
    if not head:
        raise UnsupportedImage("the file is empty (0 bytes). The upload or download never finished; fetch it again.")
    if head.startswith(_LFS):
        raise UnsupportedImage("a git-lfs pointer, not the image itself. Run `git lfs pull` where it was cloned.")
    name = _name(head)
    if name not in READ:
        raise UnsupportedImage(f"seems to be {name}, which is not read. Convert it to one of {', '.join(READ)}.")
    return name


def _name(head: bytes) -> str:
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "camera raw (CR2)"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:2] == b"BM" and len(head) > 17 and head[15:18] == b"\0\0\0":  # the info header's size is below 256
        return "BMP"
    if head[:4] == b"RIFF":
        return "WebP" if head[8:12] == b"WEBP" else f"RIFF ({_shown(head[8:12])})"
    if head[4:8] == b"ftyp":
        return _brand(head[8:12])
    if head[:1] == b"P" and head[1:2] in [bytes([kind]) for kind in _NETPBM] and head[2:3].isspace():
        return "Netpbm (PNM)"
    if head[128:132] == b"DICM":
        return "DICOM"
    return _text(head)


def _brand(brand: bytes) -> str:
    """ISO media files (ISO/IEC 14496-12): the major brand tells them apart."""
    if brand in (b"avif", b"avis"):
        return "AVIF"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "HEIF"
    if brand == b"crx ":
        return "camera raw (CR3)"
    return f"a video or another ISO media file ({_shown(brand)})"


def _text(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "SVG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page (an error page saved under an image's name?)"
    if b"\0" not in head and sum(byte < 32 and byte not in b"\t\r\n\f" for byte in head) == 0:
        return f"text ({_shown(head[:24])})"
    return f"no known image (first bytes {head[:8].hex(' ')})"


def _shown(raw: bytes) -> str:
    return repr(raw.decode("ascii", "backslashreplace"))
