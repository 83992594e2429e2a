"""Each way in which a model may be missing, broken or not ours has its own error, before anything is loaded."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import fsspec
import pytest
import torch

from ray_app.errors import ModelIncomplete, ModelMissing, ModelUnsuitable
from ray_app.sentiment.models import CRYPTOBERT, FINBERT, ModelSpec, fetch, inspect, resolve, wanted_files
from tests.sentiment import tiny


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("built"))


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "model"))


def in_hub_cache(folder: Path, cache: Path, spec: ModelSpec, commit: str, ref: str = "main") -> Path:
    """The layout huggingface_hub keeps: refs/<ref> names a commit, snapshots/<commit> holds the files."""
    repo = cache / f"models--{spec.source.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / ref).write_text(commit)
    return Path(shutil.copytree(folder, repo / "snapshots" / commit))


def test_what_a_source_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FINBERT.kind == CRYPTOBERT.kind == "hub"
    assert ModelSpec("m", "s3://bucket/finbert").kind == "url"
    assert ModelSpec("m", str(tmp_path)).kind == "folder"
    assert ModelSpec("m", "./models/finbert").kind == "folder"
    assert ModelSpec("m", "~/finbert").kind == "folder"
    (tmp_path / "models" / "finbert").mkdir(parents=True)
    assert ModelSpec("m", "models/finbert").kind == "folder"


def test_a_whole_folder_resolves_with_its_columns(folder, tmp_path):
    model = resolve(ModelSpec("finbert", str(folder)), tmp_path / "cache")
    assert (model.name, model.path, model.columns, model.safetensors) == ("finbert", folder, (1, 2, 0), True)


def test_the_revision_is_of_the_content_wherever_it_lies(folder, built):
    assert inspect("m", folder).revision == inspect("m", built).revision
    assert inspect("m", folder).revision.startswith("sha256:")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"])
def test_another_content_is_another_revision(folder, name):
    before = inspect("m", folder).revision
    path = folder / name
    content = bytearray(path.read_bytes())
    if name == "model.safetensors":
        content[-1] ^= 1
    else:
        content += b"\n"
    path.write_bytes(content)
    assert inspect("m", folder).revision != before


def test_what_is_no_part_of_the_model_is_no_part_of_its_revision(folder):
    before = inspect("m", folder).revision
    (folder / "README.md").write_text("read me")
    assert inspect("m", folder).revision == before


def test_no_folder(tmp_path):
    with pytest.raises(ModelMissing, match="no such folder"):
        resolve(ModelSpec("m", str(tmp_path / "nowhere")), tmp_path)


@pytest.mark.parametrize(
    ("name", "error"),
    [("config.json", ModelMissing), ("model.safetensors", ModelMissing), ("vocab.txt", ModelIncomplete)],
)
def test_a_part_is_missing(folder, name, error):
    (folder / name).unlink()
    with pytest.raises(error, match=r"vocab\.txt|config\.json|no weights"):
        inspect("m", folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_half_a_file_of_weights(folder, kept):
    path = folder / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, int(size * kept) if isinstance(kept, float) else kept % size)
    with pytest.raises(ModelIncomplete, match=r"model\.safetensors"):
        inspect("m", folder)


def test_weights_longer_than_their_header_says(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelIncomplete, match="where its header says"):
        inspect("m", folder)


def test_an_error_page_in_place_of_the_weights(folder):
    (folder / "model.safetensors").write_text("<html>Sorry, this page is gone</html>" * 30)
    with pytest.raises(ModelIncomplete):
        inspect("m", folder)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_config(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelIncomplete, match=r"config\.json"):
        inspect("m", folder)


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["LlamaForCausalLM"], [], None])
def test_not_a_sequence_classifier(folder, architectures):
    tiny.edit_config(folder, architectures=architectures)
    with pytest.raises(ModelUnsuitable, match="not a sequence classifier"):
        inspect("m", folder)


def test_shards_are_checked_one_by_one(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    with pytest.raises(ModelIncomplete, match=r"00002-of-00002.*missing"):
        inspect("m", folder)
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(ModelIncomplete, match="cannot be its shards"):
        inspect("m", folder)


def test_a_pickle_serves_where_there_is_nothing_else(folder):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"w": torch.zeros(1_000)}, path)
    assert not inspect("m", folder).safetensors
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelIncomplete, match="cut off"):
        inspect("m", folder)


def test_of_a_repository_only_what_is_needed_is_fetched():
    names = ["README.md", "config.json", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5", "vocab.txt"]
    assert wanted_files(names) == ["config.json", "vocab.txt", "pytorch_model.bin"]
    safer = [*names, "model.safetensors", "onnx/model.safetensors"]
    assert wanted_files(safer) == ["config.json", "vocab.txt", "model.safetensors"]


def test_a_hub_model_is_found_in_the_cache_and_its_revision_is_the_commit(folder, tmp_path):
    in_hub_cache(folder, tmp_path / "cache", FINBERT, COMMIT)
    assert resolve(FINBERT, tmp_path / "cache").revision == COMMIT


def test_a_hub_model_at_a_revision_that_is_not_here(folder, tmp_path):
    in_hub_cache(folder, tmp_path / "cache", FINBERT, COMMIT)
    with pytest.raises(ModelMissing, match="v2"):
        resolve(ModelSpec("finbert", FINBERT.source, "v2"), tmp_path / "cache")


def test_a_hub_model_that_is_not_here_yet(tmp_path):
    with pytest.raises(ModelMissing, match="ProsusAI/finbert"):
        resolve(FINBERT, tmp_path)


def test_an_id_no_hub_can_have(tmp_path):
    with pytest.raises(ModelMissing, match="no hub has such an id"):
        resolve(ModelSpec("m", "owner/na me"), tmp_path)


def test_a_half_fetched_hub_model(folder, tmp_path):
    snapshot = in_hub_cache(folder, tmp_path, FINBERT, COMMIT)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelMissing, match="no weights"):
        resolve(FINBERT, tmp_path)


COMMIT = "4556d13015211d73dccd3fdd39d39232506f3e43"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as a download needs, over one folder."""

    folder: Path
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith(f"/api/models/ProsusAI/finbert/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0"} for p in self.folder.iterdir()
            ]
            body, more = json.dumps(tree).encode(), {}
        elif self.path.startswith("/api/models/ProsusAI/finbert"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            body, more = json.dumps({"id": "ProsusAI/finbert", "sha": COMMIT, "siblings": files}).encode(), {}
        elif self.path.startswith(f"/ProsusAI/finbert/resolve/{COMMIT}/"):
            body = (self.folder / self.path.rpartition("/")[2]).read_bytes()
            more = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | more).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(folder):
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()
        thread.join()


def test_a_hub_model_is_fetched_with_its_commit_and_without_what_we_do_not_need(folder, hub, tmp_path):
    (folder / "tf_model.h5").write_bytes(b"0" * 100)
    (folder / "pytorch_model.bin").write_bytes(b"0" * 100)
    address, asked = hub
    fetched = fetch(FINBERT, tmp_path / "cache", address)
    assert fetched.revision == COMMIT
    assert fetched == resolve(FINBERT, tmp_path / "cache")
    assert not [path for path in asked if path.endswith((".h5", ".bin"))]


def test_a_model_the_hub_has_not(hub, tmp_path):
    with pytest.raises(ModelMissing, match="the hub did not give it"):
        fetch(CRYPTOBERT, tmp_path, hub[0])


def test_an_object_store_is_fetched_once(folder, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(str(folder), "memory://models/finbert", recursive=True)
    spec = ModelSpec("finbert", "memory://models/finbert")
    with pytest.raises(ModelMissing, match="not fetched yet"):
        resolve(spec, tmp_path)
    fetched = fetch(spec, tmp_path)
    assert fetched.revision == inspect("finbert", folder).revision
    store.rm("/models/finbert", recursive=True)
    assert fetch(spec, tmp_path) == resolve(spec, tmp_path) == fetched


def test_a_broken_copy_in_an_object_store_leaves_nothing_behind(folder, tmp_path):
    os.truncate(folder / "model.safetensors", 1_000)
    cache = tmp_path / "cache"
    with pytest.raises(ModelIncomplete):
        fetch(ModelSpec("finbert", f"file://{folder}"), cache)
    assert list(cache.iterdir()) == []


def test_an_object_store_that_has_nothing(tmp_path):
    with pytest.raises(ModelMissing, match="cannot be read"):
        fetch(ModelSpec("finbert", "memory://nowhere/finbert?key=secret"), tmp_path)


def test_a_secret_in_an_address_is_in_no_message(tmp_path):
    with pytest.raises(ModelMissing) as caught:
        resolve(ModelSpec("finbert", "s3://user:hush@bucket/finbert?token=hush"), tmp_path)
    assert "hush" not in str(caught.value)
    assert "bucket/finbert" in str(caught.value)
