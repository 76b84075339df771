"""Reads the rows of tables: datasets of the Hugging Face hub or on disk, JSONL, CSV and Parquet files."""

import csv
import importlib.util
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from pydantic import ValidationError

from tenner.core.errors import TennerError
from tenner.core.jsonl import read_objects
from tenner.core.recipe import explain
from tenner.core.sections import Columns, Source, Table
from tenner.core.suggest import did_you_mean

Row = dict[str, Any]
FILE_KINDS = (".jsonl", ".csv", ".parquet")
TIMEOUT_SECONDS = 60
"""Of a server of files, to answer and between any two parts of a file."""
INDEX = re.compile("[0-9]{1,9}")
FIELD_CHARACTERS_MAX = (1 << 31) - 1
ANY = Columns(question="question")
"""For a table whose rows are read as they are."""
DATA_HINT = "pip install 'tenner[data]'"


class NoColumn(TennerError):
    """A row that lacks a column."""

    def __init__(self, message: str, *, column: str, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.column = column


def check(source: Table) -> None:
    """Check, without reading it, that a source can be read. Raises TennerError if not."""
    if source.file is not None:
        if _suffix(source.file) not in FILE_KINDS:
            raise _error(source, f"{source.file} is not one of {', '.join(FILE_KINDS)}")
        if not is_url(source.file) and not os.path.isfile(source.file):
            raise _error(source, f"{source.file} does not exist")
    elif source.revision is not None and os.path.isdir(source.dataset or ""):
        raise _error(source, f"revision has no effect on a folder, {source.dataset}", hint="leave it out")
    needs_datasets = source.file is None or _suffix(source.file) == ".parquet"
    if needs_datasets and importlib.util.find_spec("datasets") is None:
        raise _error(source, "the library datasets is not installed", hint=DATA_HINT)


def table_of(path: Path, *, name: str, columns: Columns = ANY) -> Source:
    """A file on this machine as a table. Raises TennerError for a path that a recipe cannot hold."""
    try:
        return Source(name=name, file=str(path), columns=columns)
    except ValidationError as e:
        raise explain(e, text="", where=str(path), root=Source) from e


def read(source: Table) -> Iterator[Row]:
    """The rows of all its configurations and splits. Raises TennerError, in one line that names the source."""
    if source.file is not None:
        readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
        number = 0
        try:
            with _here(source, source.file) as path:
                for number, row in enumerate(readers[path.suffix.lower()](source, path), 1):  # noqa: B007
                    yield row
        except OSError as e:
            raise _error(source, f"{source.file} cannot be read: {' '.join((e.strerror or str(e)).split())}") from e
        except UnicodeDecodeError as e:
            raise _error(source, f"{source.file} is not UTF-8 text", hint="save it as UTF-8") from e
        if not number:
            raise _error(source, f"{source.file} has no rows", hint="check that it is the file you mean, and whole")
        return
    configs: list[str | None] = [*source.configs] or [None]
    for config in configs:
        for split in source.splits:
            yield from _dataset(source, config, split)


def is_url(file: str) -> bool:
    """Whether a file is to be fetched."""
    return file.startswith(("https://", "http://"))


def _suffix(file: str) -> str:
    """The ending of a file's name, in lower case: Windows writes .CSV, too."""
    return (PurePosixPath(urlsplit(file).path).suffix if is_url(file) else Path(file).suffix).lower()


@contextmanager
def _here(source: Table, file: str) -> Iterator[Path]:
    """A file on this machine, or a copy of one at a URL for as long as it is read."""
    if not is_url(file):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"rows{_suffix(file)}"
        try:
            with urlopen(file, timeout=TIMEOUT_SECONDS) as answer, copy.open("wb") as sink:
                shutil.copyfileobj(answer, sink)
        except (OSError, HTTPException, ValueError) as e:
            if isinstance(e, HTTPError):
                e.close()  # it holds the connection
            hint = "check the network and the address, or name a local copy"
            raise _error(source, f"{file} cannot be fetched: {' '.join(str(e).split())}", hint=hint) from e
        yield copy


def value_of(source: Table, row: Row, column: str) -> Any:
    """The value of a column; `a.b.0` is the path of a nested value. Raises TennerError if there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, Sequence) and not isinstance(value, str) and 0 <= (index := _index(name)) < len(value):
            value = value[index]
        else:
            hint = did_you_mean(column, map(str, row), cutoff=0.5)
            raise NoColumn(f"source {source.name}: it has no column {column}", column=column, hint=hint)
    return value


def _index(name: str) -> int:
    """A part of a path as the index of a list; -1 for one that is none."""
    return int(name) if INDEX.fullmatch(name) else -1


def _jsonl(source: Table, path: Path) -> Iterator[Row]:
    try:
        for line in read_objects(path):
            yield line.fields
    except TennerError as e:
        raise _error(source, str(e), hint=e.hint) from e


def _csv(source: Table, path: Path) -> Iterator[Row]:
    csv.field_size_limit(FIELD_CHARACTERS_MAX)  # the library's own limit is 131,072: a long solution
    with open(path, encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            names = rows.fieldnames or ()
            if len(names) == 1 and (found := next((sign for sign in ";\t|" if sign in names[0]), None)):
                hint = "save it with commas between them"
                raise _error(source, f"{path} has {found!r} between its fields", hint=hint)
            _refuse_repeated_columns(source, names)
            for row in rows:
                if None in row or None in row.values():
                    raise _error(source, f"{path}, line {rows.line_num} has another number of fields than its header")
                yield row
        except csv.Error as e:
            raise _error(source, f"{path}, line {max(1, rows.line_num)} is not CSV: {e}") from e


def _parquet(source: Table, path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    what = "is not Parquet"
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _refuse_repeated_columns(source, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1000):
            what = "holds a value that Python has no type for"
            yield from batch.to_pylist()
            what = "is damaged"
    except (TennerError, OSError, UnicodeDecodeError):  # told by those who call
        raise
    except Exception as e:  # pyarrow's own, and Python's for a date after the year 9999 or a zone that it does not know
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise _error(source, f"{path} {what}: {reason}") from e


def _refuse_repeated_columns(source: Table, names: Sequence[str]) -> None:
    """Raise TennerError for two columns of one name: only one of them would be read."""
    counts = Counter(name for name in names if name.strip())
    if twice := [name for name, count in counts.items() if count > 1]:
        raise _error(source, f"{source.file} has several columns {twice[0]}", hint="rename or remove all but one")


def _dataset(source: Table, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    assert source.dataset is not None, "validated in the recipe"
    with _dataset_errors(source, config, split):
        if os.path.isdir(source.dataset):
            folder = Path(source.dataset) / config if config else Path(source.dataset)
            try:
                table = datasets.load_from_disk(str(folder))
            except IndexError as e:  # the library writes an empty split and cannot read it
                raise _error(source, "one of its splits is empty") from e
            if isinstance(table, datasets.DatasetDict):
                if split not in table:
                    raise _error(source, f"it has no split {split}", hint=f"there are {', '.join(table)}")
                table = table[split]
        else:
            table = datasets.load_dataset(source.dataset, config, split=split, revision=source.revision)
        if not len(table):
            raise _error(source, f"the split {split} is empty")
        yield from table


@contextmanager
def _dataset_errors(source: Table, config: str | None, split: str) -> Iterator[None]:
    """Convert the library's errors to one line that names the source."""
    from datasets import exceptions
    from huggingface_hub import errors

    try:
        yield
    except TennerError:
        raise
    except errors.GatedRepoError as e:
        raise _gated(source) from e
    except (ConnectionError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as e:
        raise _error(source, "the hub does not answer", hint="check the network, or name a local copy") from e
    except (exceptions.DatasetNotFoundError, errors.RepositoryNotFoundError, FileNotFoundError) as e:
        if "gated" in str(e):
            raise _gated(source) from e
        where = f"{source.dataset}" + (f" at {source.revision}" if source.revision else "")
        raise _error(source, f"there is no dataset {where}", hint="check the name and the revision") from e
    except errors.HfHubHTTPError as e:
        raise _error(source, f"the hub answers {' '.join(str(e).split())[:160]}") from e
    except exceptions.DatasetGenerationError as e:
        raise _error(source, f"its files cannot be read: {' '.join(str(e.__cause__ or e).split())[:160]}") from e
    except RuntimeError as e:
        if "Dataset scripts are no longer supported" not in str(e):
            raise _as_it_says(source, config, split, e) from e
        raise _error(
            source,
            f"{source.dataset} is a dataset script, which the datasets library no longer loads",
            hint='read its Parquet files, where it has them: revision = "refs/convert/parquet"; or name a copy',
        ) from e
    except Exception as e:  # an unknown configuration or split is a ValueError; each format has errors of its own
        raise _as_it_says(source, config, split, e) from e


def _as_it_says(source: Table, config: str | None, split: str, error: Exception) -> TennerError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return _error(source, reason, hint=f"requested: {config or 'no'} configuration, split {split}")


def _gated(source: Table) -> TennerError:
    return _error(
        source, f"{source.dataset} is gated",
        hint=f"accept its terms at https://huggingface.co/datasets/{source.dataset} and set HF_TOKEN",
    )  # fmt: skip


def _error(source: Table, message: str, *, hint: str | None = None) -> TennerError:
    return TennerError(f"source {source.name}: {message}", hint=hint)
