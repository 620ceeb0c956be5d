"""Rows of text from the hub, a folder or a file, through `datasets`.

A folder has one file per split (`train.jsonl.gz`, `validation.csv`, `test-00.parquet`)
or is one that `save_to_disk` wrote. The columns determine the kind of a data set; other
columns pass through.
"""

import contextlib
import difflib
import os
import pathlib
import re
import tempfile

KINDS = {  # most specific first: a data set is of the first kind whose columns it has
    "paired": ("question", "response_j", "response_k"),
    "choices": ("question", "choices", "label"),
    "preference": ("prompt", "chosen", "rejected"),
    "conversations": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "translation": ("translation",),
    "classification": ("text", "label"),
    "text": ("text",),
    "prompt": ("prompt",),
}
_BUILDERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet"}
_FILE = re.compile(r"(?P<stem>.+?)\.(?P<format>jsonl|json|csv|parquet)(\.gz)?$")
_PART = re.compile(r"(?P<name>[^\[\]+]+)(?P<slice>\[[^\]]*\])?$")
_ALIASES = {"validation": ("val", "valid", "dev"), "val": ("validation",)}


def load(name_or_path, *, split="train", columns=None, config=None, folder=None):
    """The rows of a split as a checked `datasets.Dataset`.

    Args:
      name_or_path: a folder, a file, or a data set on the hub.
      split: one split, several ("train+unsupervised", keeping the columns they share),
        or a part ("train[:10%]"). A single file is the split "train", and that of its
        own name.
      columns: the columns needed, or {needed: present} to rename them; () for any;
        by default those of any of `KINDS`.
      config: of a hub data set.
      folder: the folder of the rows inside the data set.

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
        parts = [_hub(str(name_or_path), split, config, folder)]
    shared = [c for c in parts[0].column_names if all(c in p.features for p in parts)]
    if len(parts) > 1:
        parts = [part.select_columns(shared) for part in parts]
    return checked(datasets.concatenate_datasets(parts), columns, where)


def checked(rows, columns, where):
    """A `datasets.Dataset` with its columns renamed, when it is as `load` wants it.

    Args: columns: as in `load`; where: what errors call the rows.
    """
    if not len(rows):
        raise ValueError(f"{where}: no rows; choose another split or file")
    rows = _choose(rows, columns, where)
    if columns is None:
        columns = KINDS[kind(rows, where)]
    if columns:
        _refuse_empty(rows, columns, where)
    return rows


def kind(rows, where="the data set"):
    """The kind of a data set, by its columns: a key of `KINDS`."""
    for name, needed in KINDS.items():
        if set(needed) <= set(rows.column_names):
            return name
    known = "; ".join("+".join(needed) for needed in KINDS.values())
    raise ValueError(
        f"{where}: columns {', '.join(rows.column_names)}; needed are {known}; name "
        "yours with columns={'text': 'your column'}"
    )


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
    """One part of a split, from a file, a folder of files, or `save_to_disk`."""
    match = _PART.match(part.strip())
    if not match:
        raise ValueError(f"{where}: {part!r} is not a valid split name")
    if path.is_file():
        name = _FILE.match(path.name)
        _known(match["name"], {"train", name["stem"] if name else path.name}, where)
        return _files([path], match["slice"], where)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, match["name"], match["slice"], where)
    splits = {}
    for file in sorted(path.iterdir()):
        if name := _FILE.match(file.name):
            splits.setdefault(re.sub(r"-\d.*", "", name["stem"]), []).append(file)
    return _files(splits[_known(match["name"], splits, where)], match["slice"], where)


def _known(name, splits, where):
    """The split called `name` or an alias of it, such as dev for validation."""
    for candidate in (name, *_ALIASES.get(name, ())):
        if candidate in splits:
            return candidate
    present = ", ".join(sorted(splits)) or "no .jsonl, .json, .csv or .parquet file"
    raise ValueError(f"{where}: there is no {name!r}; there is {present}")


def _files(files, part, where):
    """Rows of files of one format."""
    datasets = _datasets()
    match = _FILE.match(files[0].name)
    if not match:
        raise ValueError(
            f"{files[0]}: not a .jsonl, .json, .csv or .parquet file (.gz may follow)"
        )
    if not any(file.stat().st_size for file in files):
        raise ValueError(f"{where}: {files[0]} is empty; give it at least one row")
    with _cache() as options:
        try:
            return datasets.load_dataset(
                _BUILDERS[match["format"]],
                data_files={"rows": [str(file) for file in files]},
                split=f"rows{part or ''}",
                **options,
            )
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split())[:300]
            raise ValueError(f"{where}: {files[0]} cannot be read: {reason}") from None


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


def _hub(name, split, config, folder):
    """A split of a data set on the hub, or of its copy in the local cache."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or _FILE.match(name):
        raise ValueError(_missing(name, "not tried: the name looks like a path"))
    datasets = _datasets()
    settings = datasets.config
    offline = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = offline or not _reachable(name)
    try:
        return datasets.load_dataset(name, config, split=split, data_dir=folder)
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


def _choose(rows, columns, where):
    """Renames columns as needed. Raises ValueError if one is missing."""
    renames = columns if isinstance(columns, dict) else {c: c for c in columns or ()}
    for needed, present in renames.items():
        if present not in rows.column_names:
            raise ValueError(
                f"{where}: no column {present!r}, needed for {needed!r}; there is "
                f"{', '.join(rows.column_names)}; name yours with "
                f"columns={{{needed!r}: 'your column'}}"
            )
        if needed != present:
            if needed in rows.column_names:
                rows = rows.remove_columns(needed)
            rows = rows.rename_column(present, needed)
    return rows


def _refuse_empty(rows, columns, where):
    """Raises ValueError at the first row whose text is missing or blank."""
    size = 10_000
    blank = {"text", "prompt"} & set(columns)  # an answer may be empty
    parts = rows.select_columns(list(columns)).iter(batch_size=size)
    for start, part in zip(range(0, len(rows), size), parts, strict=True):
        for column, values in part.items():
            for i, value in enumerate(values):
                empty = not (value.strip() if isinstance(value, str) else value)
                if value is None or (column in blank and empty):
                    raise ValueError(
                        f"{where}: row {start + i} (counted from 0) has no {column}; "
                        "remove the row or fill it"
                    )
