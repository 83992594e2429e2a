"""Where a transformers model comes from, what there is of it on this machine, and which revision that is.

A source is a hub id (``ProsusAI/finbert``), a local folder, or an object-store URL of a folder (anything fsspec opens).
``fetch`` brings the files here, which may take minutes and belongs in the background; ``resolve`` only looks at what is
here, says exactly what is wrong with it, and gives the **revision** every score is stored with: the hub's commit, or a
hash of the content. Neither needs torch.

What we load can run no code of others: config and tokenizer are JSON and text, remote code is never trusted, weights
are safetensors wherever a repository has them. ProsusAI/finbert's main branch has only ``pytorch_model.bin``, a pickle:
it is read by ``torch.load(weights_only=True)``, whose unpickler knows tensors and nothing else (torch 2.10 or newer:
CVE-2025-32434 and CVE-2026-24747 are mended there).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ray_app.errors import ModelIncomplete, ModelMissing, ModelUnavailable, ModelUnsuitable
from ray_app.sentiment.labels import class_columns

CONFIG: Final = "config.json"
SAFETENSORS: Final = "model.safetensors"
SAFETENSORS_INDEX: Final = "model.safetensors.index.json"
PICKLE: Final = "pytorch_model.bin"

#: Any one of these sets of files is a tokenizer.
TOKENIZERS: Final = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))

#: The files of a repository we take; the rest (TensorFlow's and Flax's weights, training state) is never fetched.
WANTED: Final = (
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the settings name it. ``revision``: branch, tag or commit of the hub; elsewhere it has no meaning."""

    name: str
    source: str
    revision: str | None = None

    @property
    def kind(self) -> str:
        """``url``, ``folder`` or ``hub``: what ``source`` is. A hub id is ``owner/name`` and no folder of that name."""
        if "://" in self.source:
            return "url"
        path = Path(self.source).expanduser()
        looks_local = path.is_absolute() or self.source.startswith((".", "~")) or self.source.count("/") != 1
        return "folder" if looks_local or path.is_dir() else "hub"


CRYPTOBERT: Final = ModelSpec("cryptobert", "ElKulako/cryptobert")
FINBERT: Final = ModelSpec("finbert", "ProsusAI/finbert")
DEFAULTS: Final = (CRYPTOBERT, FINBERT)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A whole model on this machine, ready to load. ``columns``: the outputs that are (negative, neutral, positive)."""

    name: str
    path: Path
    revision: str
    columns: tuple[int, int, int]
    safetensors: bool


def fetch(spec: ModelSpec, cache: Path, hub: str | None = None) -> LocalModel:
    """Bring the model's files to this machine and check them. Blocks; a second call finds what the first brought.

    ``hub``: address of a mirror; None: as huggingface_hub is set (``HF_ENDPOINT``).
    Raises ModelMissing where they cannot be had (a hub that is away is tried for half a minute), ModelIncomplete and
    ModelUnsuitable as :func:`resolve` does.
    """
    if spec.kind == "hub":
        _from_hub(spec, cache, hub)
    elif spec.kind == "url":
        _from_url(spec, cache)
    return resolve(spec, cache)


def resolve(spec: ModelSpec, cache: Path) -> LocalModel:
    """The model as it lies on this machine; nothing is fetched.

    Raises ModelMissing (no files), ModelIncomplete (half a model), ModelUnsuitable (not one we can use).
    """
    if spec.kind == "hub":
        folder = _hub_folder(spec, cache)
        return inspect(spec.name, folder, revision=folder.name)
    folder = _url_folder(spec, cache) if spec.kind == "url" else Path(spec.source).expanduser()
    if not folder.is_dir():
        wait = "it is not fetched yet" if spec.kind == "url" else "there is no such folder"
        raise ModelMissing(spec.name, f"{_without_secrets(spec.source)}: {wait}")
    return inspect(spec.name, folder)


def inspect(name: str, folder: Path, revision: str | None = None) -> LocalModel:
    """Check a folder without loading it; ``revision`` None: the hash of its content (see :func:`content_revision`)."""
    config = _config(name, folder)
    architectures = config.get("architectures") or ["none"]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        raise ModelUnsuitable(name, f"{folder}: its architecture is {architectures[0]}, not a sequence classifier")
    columns = class_columns(name, config)
    weights = _weights(name, folder)
    if not any(all((folder / part).is_file() for part in parts) for parts in TOKENIZERS):
        wanted = " or ".join("+".join(parts) for parts in TOKENIZERS)
        raise ModelIncomplete(name, f"{folder}: no tokenizer ({wanted}); fetch it with the weights")
    return LocalModel(
        name,
        folder,
        revision or content_revision(folder, weights),
        columns,
        safetensors=weights[0].suffix != ".bin",
    )


def content_revision(folder: Path, weights: Iterable[Path]) -> str:
    """``sha256:`` and 40 hex digits over names and bytes of config, tokenizer and weights: the same model, wherever."""
    digest = hashlib.sha256()
    for path in sorted({*(folder / name for name in WANTED), *weights}):
        if path.is_file():
            with path.open("rb") as file:
                part = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name} {part}\n".encode())
    return f"sha256:{digest.hexdigest()[:40]}"


def _config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelMissing(name, f"{folder}: no {CONFIG}; this is no folder of a transformers model")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelIncomplete(name, f"{path} is no JSON ({error}); fetch it anew") from error
    if not isinstance(config, dict):
        raise ModelIncomplete(name, f"{path} holds no JSON object; fetch it anew")
    return config


def _weights(name: str, folder: Path) -> list[Path]:
    """The weight files, each as long as it says it is."""
    index = folder / SAFETENSORS_INDEX
    if (folder / SAFETENSORS).is_file():
        files = [folder / SAFETENSORS]
    elif index.is_file():
        files = _shards(name, index)
    elif (folder / PICKLE).is_file():
        files = [folder / PICKLE]
    else:
        raise ModelMissing(name, f"{folder}: no weights ({SAFETENSORS} or {PICKLE}); fetch them")
    for file in files:
        problem = pickle_problem(file) if file.suffix == ".bin" else safetensors_problem(file)
        if problem:
            raise ModelIncomplete(name, f"{file}: {problem}; fetch it anew")
    return files


def _shards(name: str, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        inside = [PurePosixPath(shard).name == shard and shard.endswith(".safetensors") for shard in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelIncomplete(name, f"{index} is no index of weights ({error!r}); fetch it anew") from error
    if not names or not all(inside):
        raise ModelIncomplete(name, f"{index} names files that cannot be its shards: {names}; fetch it anew")
    return [index.parent / shard for shard in names]


def safetensors_problem(path: Path) -> str | None:
    """What is wrong with the file, by its header alone; None: it is as long as its tensors.

    Layout: 8 bytes little-endian length of the header, the header (JSON: name → dtype, shape, data_offsets), the data.
    https://huggingface.co/docs/safetensors
    """
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            return f"cut off within its header ({size:,} bytes)"
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "its header is no safetensors header"
    if not ends:
        return "it holds no tensors"
    return None if size == whole else f"it has {size:,} bytes where its header says {whole:,}"


def pickle_problem(path: Path) -> str | None:
    """None: a whole zip archive, or the older layout, of which only loading can tell."""
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    return "cut off (a zip archive without its end)" if start == b"PK" and not zipfile.is_zipfile(path) else None


def _hub_folder(spec: ModelSpec, cache: Path) -> Path:
    """The snapshot here of what ``spec`` names; snapshot_download would miss the files that we never fetch."""
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(spec.source, CONFIG, cache_dir=cache, revision=spec.revision)
    except ValueError as error:
        raise ModelMissing(spec.name, f"{spec.source}: no hub has such an id ({_first_line(error)})") from error
    if not isinstance(config, str):
        at = f" at revision {spec.revision}" if spec.revision else ""
        raise ModelMissing(spec.name, f"{spec.source}{at}: not in {cache}; it has to be fetched from the hub")
    return Path(config).parent


def _from_hub(spec: ModelSpec, cache: Path, hub: str | None) -> None:
    """Config, tokenizer and one copy of the weights; of safetensors and a pickle the safetensors."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub)
    try:
        info = api.model_info(spec.source, revision=spec.revision)
        names = wanted_files(file.rfilename for file in info.siblings or [])
        api.snapshot_download(spec.source, revision=spec.revision, cache_dir=cache, allow_patterns=names)
    except Exception as error:  # those of whichever HTTP library, too: all mean that the files are not here
        raise ModelMissing(spec.name, f"{spec.source}: the hub did not give it ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of a repository's files those we fetch: see :data:`WANTED`, and the weights in their safest form."""
    names = list(names)
    weights = [name for name in names if "/" not in name and name.startswith("model") and ".safetensors" in name]
    return [name for name in names if name in WANTED] + (weights or [name for name in names if name == PICKLE])


def _url_folder(spec: ModelSpec, cache: Path) -> Path:
    return cache / f"{spec.name}-{hashlib.sha256(spec.source.encode()).hexdigest()[:16]}"


def _from_url(spec: ModelSpec, cache: Path) -> None:
    """Copy beside the final folder, then rename: a broken copy is never taken for a model.

    Credentials are fsspec's own matter (environment, instance role).
    """
    import fsspec  # type: ignore[import-untyped]

    folder = _url_folder(spec, cache)
    if folder.is_dir():
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    except OSError as error:
        raise ModelMissing(spec.name, f"{cache}: cannot be written to ({error.strerror})") from error
    try:
        system, root = fsspec.core.url_to_fs(spec.source)
        listed = {PurePosixPath(path).name: path for path in system.ls(root, detail=False)}
        for name in wanted_files(listed):
            system.get_file(listed[name], str(partial / name))
        inspect(spec.name, partial)
        partial.rename(folder)
    except ModelUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - those of whichever store's library; they may show a signed address
        if not folder.is_dir():  # another process may have brought it meanwhile
            why = _SECRET.sub("", _first_line(error))
            raise ModelMissing(spec.name, f"{_without_secrets(spec.source)}: cannot be read ({why})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


#: of addresses in messages: credentials, and what is signed
_SECRET: Final = re.compile(r"(?<=://)[^/@\s]*@|\?\S*")


def _without_secrets(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.partition('?')[0].rpartition('@')[2]}"
