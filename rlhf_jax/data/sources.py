"""Rows of text from the hub, a folder or a file, through `datasets`.

A folder has one file per split (`train.jsonl.gz`, `validation.csv`, `test-00.parquet`)
or is one that `save_to_disk` wrote. The columns determine the kind of a data set; other
columns pass through.
"""

import contextlib
import difflib
import logging
import os
import pathlib
import re
import tempfile

from rlhf_jax.data import diagnosis, kinds, origins

_BUILDERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet"}
_FILE = re.compile(r"(?P<stem>.+?)\.(?P<format>jsonl|json|csv|parquet)(\.gz)?$")
_PART = re.compile(r"(?P<name>[^\[\]+]+)(?P<slice>\[[^\]]*\])?$")
_ALIASES = {"validation": ("val", "valid", "dev"), "val": ("validation",)}


def load(
    name_or_path, *, split="train", columns=None, config=None, folder=None, marked=False
):
    """The rows of a split as a checked `datasets.Dataset`.

    Args:
      name_or_path: a folder, a file, or a data set on the hub.
      split: one split, several ("train+unsupervised", keeping the columns they share),
        or a part ("train[:10%]"). A single file is the split "train", and that of its
        own name.
      columns: the columns needed, or {needed: present} to rename them; () for any;
        by default those of any of `kinds.KINDS`.
      config: of a hub data set.
      folder: the folder of the rows inside the data set.
      marked: with the columns of `origins`.

    Raises ValueError for a data set that cannot be found, has no rows, lacks columns or
    has an empty text.
    """
    datasets = _datasets()
    path = pathlib.Path(name_or_path).expanduser()
    where = f"{name_or_path}, split {split!r}"
    if path.exists():
        path, where = _inside(path, folder, where)
        parts = [_local(path, part, where) for part in split.split("+")]
    else:
        rows = _hub(str(name_or_path), split, config, folder)
        parts = [(rows, where, range(len(rows)))]
    tables = [rows for rows, *_ in parts]
    shared = [c for c in tables[0].column_names if all(c in t.features for t in tables)]
    if len(parts) > 1:
        tables = [table.select_columns(shared) for table in tables]
    rows = datasets.concatenate_datasets(tables)
    if len(rows):
        rows = origins.mark(rows, [origin for _, *origin in parts])
    rows = checked(rows, columns, where)
    return rows if marked else origins.unmark(rows)


def stream(name_or_path, *, split="train"):
    """(an iterator over the rows of a split as dictionaries, their source as for
    `origins.mark`), none of which is read before it is asked for.

    Args: as for `load`; a split is one, and whole. Raises ValueError where there is no
    such split, and, from the iterator, for a file that cannot be read.
    """
    path = pathlib.Path(name_or_path).expanduser()
    where = f"{name_or_path}, split {split!r}"
    if "+" in split or "[" in split:
        raise ValueError(f"{where}: a stream is of one whole split")
    if not path.exists():
        rows = _hub(str(name_or_path), split, None, None, streaming=True)
        return _reading(rows, ()), where
    if _is_saved(path):
        return _reading(_saved(path, split, None, where), ()), where
    files, _ = _split(path, split, where)
    return _reading(_open(files, where, streaming=True), files), _joined(files)


def _reading(rows, files):
    """The rows one by one; errors are those of `_files`."""
    with _silent():
        rows = iter(rows)
    while True:
        try:
            with _silent():
                row = next(rows, None)
        except Exception as error:  # readers raise what they like
            if not files:
                raise
            raise ValueError(diagnosis.why(files, error)) from None
        if row is None:
            return
        yield row


def checked(rows, columns, where):
    """A `datasets.Dataset` with its columns renamed, when it is as `load` wants it.

    Args: columns: as in `load`; where: what errors call the rows.
    """
    if not len(rows):
        raise ValueError(f"{where}: no rows; choose another split or file")
    rows = kinds.rename(rows, columns, where)
    if columns is None:
        columns = kinds.KINDS[kinds.of(rows, where)]
    if columns:
        kinds.refuse_unreadable(rows, columns)
    return rows


def drop_shared(rows, other):
    """`rows` without the texts that `other` also has; both data sets, or both lists."""
    known = set(_texts(other))
    keep = [i for i, text in enumerate(_texts(rows)) if text not in known]
    return [rows[i] for i in keep] if isinstance(rows, list) else rows.select(keep)


def _texts(rows):
    return rows if isinstance(rows, list) else rows[:]["text"]


def _datasets():
    """`datasets`, without progress bars; imported on first use, as it takes 2 s."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _inside(path, folder, where):
    """(the folder of the rows in a local data set, a name for it in messages)."""
    if folder is None:
        return path, where
    if not (path / folder).is_dir():
        raise ValueError(f"{where}: it has no folder {folder!r}")
    return path / folder, f"{where}, folder {folder!r}"


def _local(path, part, where):
    """One part of a split, from a file, a folder of files, or `save_to_disk`: (rows,
    source, numbers), the latter as for `origins.mark`."""
    if path.is_dir() and _is_saved(path):
        match = _matched(part, where)
        rows = _saved(path, match["name"], match["slice"], where)
        return rows, where, range(len(rows))
    return _files(*_split(path, part, where), where)


def _is_saved(path):
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _matched(part, where):
    match = _PART.match(part.strip())
    if not match:
        raise ValueError(f"{where}: {part!r} is not a valid split name")
    return match


def _split(path, part, where):
    """(the files of a part of a split, which part of their rows it is)."""
    match = _matched(part, where)
    if path.is_file():
        name = _FILE.match(path.name)
        _known(match["name"], {"train", name["stem"] if name else path.name}, where)
        if not name:
            raise ValueError(
                f"{path}: not a .jsonl, .json, .csv or .parquet file (.gz may follow)"
            )
        return _filled([path]), match["slice"]
    splits = {}
    for file in sorted(path.iterdir()):
        if name := _FILE.match(file.name):
            splits.setdefault(re.sub(r"-\d.*", "", name["stem"]), []).append(file)
    return _filled(splits[_known(match["name"], splits, where)]), match["slice"]


def _filled(files):
    if not any(file.stat().st_size for file in files):
        raise ValueError(f"{files[0]} is empty; give it at least one row")
    return files


def _known(name, splits, where):
    """The split called `name` or an alias of it, such as dev for validation."""
    for candidate in (name, *_ALIASES.get(name, ())):
        if candidate in splits:
            return candidate
    present = ", ".join(sorted(splits)) or "no .jsonl, .json, .csv or .parquet file"
    raise ValueError(f"{where}: there is no {name!r}; there is {present}")


def _files(files, part, where):
    """Rows of files of one format, or some of them: as of `_local`."""
    try:
        rows = _open(files, where)
        rows.data.table.validate(full=True)  # it may hold what is not UTF-8
    except Exception as error:  # readers raise what they like
        raise ValueError(diagnosis.why(files, error)) from None
    numbers = range(len(rows))
    if part:
        numbers = _part(part, len(rows), where)
        rows = rows.select(numbers)
    return rows, _joined(files), numbers


def _joined(files):
    """Files as a source of `origins`."""
    return "\n".join(map(str, files))


def _open(files, where, **options):
    """All rows of files of one format; options: of `load_dataset`."""
    match = _FILE.match(files[0].name)
    if match["format"] == "csv":
        options |= {"na_values": [""], "keep_default_na": False}
    lazy = options.get("streaming")  # needs no cache
    with contextlib.nullcontext({}) if lazy else _cache() as cache, _silent():
        return _datasets().load_dataset(
            _BUILDERS[match["format"]],
            data_files={"rows": [str(file) for file in files]},
            split="rows",
            **cache,
            **options,
        )


def _part(part, count, where):
    """The range of rows that a part such as [:10%] names."""
    instruction = _datasets().ReadInstruction
    try:
        (chosen,) = instruction.from_spec(f"rows{part}").to_absolute({"rows": count})
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{where}: {part} is no part of a split: {error}") from None
    return range(chosen.from_ or 0, count if chosen.to is None else chosen.to)


@contextlib.contextmanager
def _silent():
    """Without what `datasets` logs beside its errors."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _saved(path, name, part, where):
    datasets = _datasets()
    rows = datasets.load_from_disk(str(path))
    if isinstance(rows, datasets.DatasetDict):
        rows = rows[_known(name, rows, where)]
    if part:
        raise ValueError(
            f"{where}: a part of a saved split is not supported; save it separately"
        )
    return rows


@contextlib.contextmanager
def _cache():
    """Options of `load_dataset`: memory instead of its cache if that is read-only."""
    folder = pathlib.Path(_datasets().config.HF_DATASETS_CACHE)
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK):
        yield {}
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield {"cache_dir": temporary, "keep_in_memory": True}


def _hub(name, split, config, folder, **options):
    """A split of a data set on the hub, or of its copy in the local cache."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or _FILE.match(name):
        raise ValueError(_missing(name, "not tried: the name looks like a path"))
    datasets = _datasets()
    settings = datasets.config
    offline = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = offline or not _reachable(name)
    try:
        with _silent():
            return datasets.load_dataset(
                name, config, split=split, data_dir=folder, **options
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, (ConnectionError, FileNotFoundError)):
            raise ValueError(_missing(name, reason)) from None
        raise ValueError(f"{name}, split {split!r}, on the hub: {reason}") from None
    finally:
        settings.HF_HUB_OFFLINE = offline


def _reachable(name):
    """Does the hub answer? Asking for rows would take half a minute to fail."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except errors.HfHubHTTPError:
        return True  # it answered; `load_dataset` will raise the same error
    except Exception:  # network errors, whose class differs between releases
        return False
    return True


def _missing(name, reason):
    """The message that `name` does not exist, with similar names if there are any."""
    path = pathlib.Path(name).expanduser().absolute()
    parent = next(p for p in path.parents if p.is_dir())
    wanted = path.relative_to(parent).parts[0]
    similar = difflib.get_close_matches(wanted, os.listdir(parent), n=3)
    similar = f"; in {parent} there is {', '.join(similar)}" if similar else ""
    return (
        f"{name}: neither a folder, nor a file, nor a data set on the hub that can be "
        f"reached ({reason}){similar}; give a path that exists or a hub name"
    )
