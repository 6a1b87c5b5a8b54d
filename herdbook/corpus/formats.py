"""What a file is, by its name or else by its first bytes."""

from __future__ import annotations

from pathlib import Path

from herdbook.corpus.streams import GZIP_MAGIC, ZSTD_MAGIC

_CODE = (
    ".py .pyi .pyx .c .h .cc .cpp .hpp .cu .java .js .mjs .ts .tsx .go .rs .rb .php .pl .pm .sh .bash .lua .r .jl "
    ".scala .kt .swift .cs .m .hs .ml .ex .erl .clj .lisp .el .scm .f90 .f .sql .css .scss .cmake .mk .proto .tex"
)
CODE_SUFFIXES = frozenset(_CODE.split())
TEXT_SUFFIXES = CODE_SUFFIXES | {".txt", ".md", ".rst", ".text", ".org", ".adoc"}
HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
WARC_SUFFIXES = (".warc", ".warc.gz", ".warc.zst", ".wet", ".wet.gz", ".arc", ".arc.gz")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json.gz")
PARQUET_SUFFIXES = (".parquet",)
ARROW_SUFFIXES = (".arrow",)


def guess_format(path: Path, only: bool) -> str | None:
    """The format a file's name tells, else its first bytes; a single named file (`only`) is never passed over."""
    if kind := format_of_name(path.name):
        return kind
    with open(path, "rb") as file:
        return format_of_head(file.read(16), only)


def format_of_name(name: str) -> str | None:
    """The format a file's name tells."""
    by_suffix = {"warc": WARC_SUFFIXES, "jsonl": JSONL_SUFFIXES, "parquet": PARQUET_SUFFIXES, "arrow": ARROW_SUFFIXES}
    for kind, suffixes in by_suffix.items():
        if name.lower().endswith(suffixes):
            return kind
    return "text" if Path(name).suffix.lower() in TEXT_SUFFIXES | HTML_SUFFIXES else None


def format_of_head(head: bytes, only: bool) -> str | None:
    """The format a file's first bytes tell; text when it has to be something."""
    if head.startswith((b"WARC/", b"filedesc:")):
        return "warc"
    if head.startswith(b"PAR1"):
        return "parquet"
    if not only:
        return None
    return "warc" if head.startswith((GZIP_MAGIC, ZSTD_MAGIC)) else "text"


def suits(path: Path, kind: str) -> bool:
    """Whether a file met in a folder is for the asked format."""
    name = path.name.lower()
    if kind in ("text", "code"):
        return path.suffix.lower() in TEXT_SUFFIXES | HTML_SUFFIXES
    suffixes = {"jsonl": JSONL_SUFFIXES, "parquet": PARQUET_SUFFIXES, "arrow": ARROW_SUFFIXES}.get(kind, WARC_SUFFIXES)
    return name.endswith(suffixes)
