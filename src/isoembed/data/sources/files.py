"""Opening data files: by bytes, decompressed on the way (.gz, .zst), faults named."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from isoembed.core import InputError, expanded

#: endings of packed text files, and pyarrow's names for them
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
#: marks at the beginning of a file, the longer first, and its encoding
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: first bytes of files that are no text, and what they are
_SIGNS = (
    (b"\x1f\x8b", "a gzip archive", "Name it as one, FILE.gz"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", "Name it as one, FILE.zst"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "Unpack it, or save the sheet as CSV"),
    (b"BZh91AY&SY", "a bzip2 archive", "Unpack it"),
    (b"\xfd7zXZ\0", "an xz archive", "Unpack it"),
    (b"PAR1\x15", "Parquet", "Name it as that, FILE.parquet"),
    (b"ARROW1\0", "an Arrow file", "Save it as Parquet"),
)
#: bytes read at a time: what was read of a piece that is then found damaged is lost
PIECE = 1 << 16


def file_hash(file: Path) -> str:
    """SHA-256 of the file's bytes, read as a stream."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def label_of(file: Path) -> str:
    """The file's name as valid text: bytes in it that are no UTF-8 are escaped."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def open_file(file: Path) -> pa.NativeFile:
    """The file, whatever bytes its name is made of."""
    return pa.OSFile(os.fsencode(file))


@contextmanager
def open_text(file: Path) -> Iterator[io.TextIOWrapper]:
    """The file's lines, line ends kept.  Bytes that are no UTF-8 become lone surrogates, so that one bad row does not
    hide the good ones after it; whoever reads a text checks for them.  With a mark of UTF-16 or UTF-32 at its beginning
    the file is read as that.  A truncated or corrupt archive raises OSError while reading (gzip's own reader in Python
    would do, but zstandard's ends silently); see `damage`."""
    with (
        open_file(file) as native,
        pa.input_stream(native, compression=PACKINGS.get(file.suffix.lower())) as stream,
        io.BufferedReader(stream, PIECE) as buffered,
    ):
        head = buffered.peek(4)[:4]
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")
        if len(head) == 4 and encoding == "utf-8-sig" and (head[1] == head[3] == 0 or head[0] == head[2] == 0):
            raise InputError(
                "A text file must be UTF-8, or say by a byte order mark that it is UTF-16; "
                f"{label_of(file)} looks like UTF-16 without one. Save it as UTF-8."
            )
        first = buffered.peek(16)
        for sign, kind, remedy in _SIGNS:
            if first.startswith(sign):
                raise InputError(
                    f"A file must be what its name says; {label_of(file)} holds {kind}, not text. {remedy}."
                )
        errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
        with io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="") as text:
            yield text


def damage(error: OSError | UnicodeDecodeError | pa.ArrowException) -> str:
    """What is wrong with a file's content, where `error` says so.

    Raises the error itself where the system could not read: that is no fault of the file's, and what was read of it is
    not what its fingerprint stands for.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return f"the file must be whole; {error}. Fetch it again"


class LongLine:
    """A line that is longer than allowed, of which only the beginning was read."""

    def __init__(self, text: io.TextIOWrapper, beginning: str) -> None:
        self.beginning = beginning
        self._text, self._piece = text, beginning
        self._quotes = beginning.count('"')

    def pass_over(self) -> int:
        """Read on to its end, keeping nothing; how many double quotes the line has."""
        while self._piece and not self._piece.endswith(("\n", "\r")):
            self._piece = self._text.readline(PIECE)
            self._quotes += self._piece.count('"')
        return self._quotes


def lines_of(text: io.TextIOWrapper, limit: int) -> Iterator[str | LongLine]:
    """The lines of `text`, line ends kept; of one longer than `limit` bytes no more than that is ever held, nor read
    before the next line is asked for."""
    while line := text.readline(limit + 1):
        if 4 * len(line) <= limit or len(line.encode("utf-8", "surrogatepass")) <= limit:
            yield line
        else:
            long = LongLine(text, line)
            yield long
            long.pass_over()


class NoFileError(InputError):
    """There is no file of pairs at the place that was named."""


def existing(path: str) -> Path:
    """The file at `path`; raises NoFileError where there is none."""
    file = expanded(path)
    if not file.is_file():
        raise NoFileError(
            f"`data` must name a file that exists; there is none at {label_of(Path(path))}. Check the path."
        )
    return file
