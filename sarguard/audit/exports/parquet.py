"""Records as Parquet, for analysing many of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from sarguard.audit.exports.rows import COLUMNS, row
from sarguard.audit.storage.query import Entry
from sarguard.extras import missing_extra

_ROWS_AT_ONCE = 10_000


def write_parquet(entries: Iterable[Entry], path: Path) -> None:
    """Write a Parquet file; the columns are typed, `record` holds the exact bytes.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """
    pyarrow, parquet = _load()
    kinds = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
    }
    fields = [(name, kinds[kind]) for name, (_, kind) in COLUMNS.items()]
    schema = pyarrow.schema(fields, metadata={"generator": "sarguard"})
    remaining = iter(entries)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := [row(entry) for entry in islice(remaining, _ROWS_AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _load() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("Parquet", "parquet", error) from error
    return pyarrow, parquet
