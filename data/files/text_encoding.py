"""Read text files in UTF-8 (with or without byte order mark), UTF-16 or UTF-32."""

import codecs
from pathlib import Path

from openpali.data.records import BadRecord

# the byte order mark of UTF-32 begins with that of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ARCHIVES = (b"PK\3\4", b"\x1f\x8b")
_LOOKED_AT = 1 << 16
_HEAD, _MOST = 64, 0.75


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes: a byte order mark, or the zeros of UTF-16; else UTF-8."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    some = head[:_HEAD]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        high, low = some[first::2], some[1 - first :: 2]
        # most characters of annotation files are ASCII
        if high.count(0) > _MOST * len(high) and all(low):
            return encoding
    return "utf-8"


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        BadRecord: the encoding is not known; the error names the line.
    """
    content = path.read_bytes()
    encoding = encoding_of(content)
    if content.startswith(_ARCHIVES) or encoding == "utf-8" and b"\0" in content[:_LOOKED_AT]:
        raise BadRecord(
            str(path), "all", "it is not a text, but a workbook, an archive or the like", "Export it as text."
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadRecord(str(path), line, not_unicode(content[error.start], encoding), SAVE_AS_UTF8) from error


SAVE_AS_UTF8 = "Save the file as UTF-8."


def not_unicode(byte: int, encoding: str = "utf-8") -> str:
    """The reason why a text cannot be decoded, from the first invalid byte."""
    if encoding != "utf-8":
        return f"it begins as {encoding.upper()} and continues otherwise"
    return f"it is not UTF-8 (byte 0x{byte:02x}; perhaps Latin-1 or Windows-1252)"
