"""Files that are none, full disks, temporary files that a killed process left behind."""

import json
import os
import threading
import time

import numpy as np
import pytest
from conftest import make_llama

import minilora as ml
from minilora.support.files import parse_json, read_json, read_text, replacing, write_together
from minilora.tuning.callbacks import Log, Run
from minilora.tuning.history import History

posix = pytest.mark.skipif(os.name != "posix", reason="named pipes and devices")


@posix
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind, name):
    ml.save_model(make_llama(dtype=np.float32), tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    done = []

    def load():
        with pytest.raises((ValueError, OSError), match=name):
            ml.load_model(tmp_path)
        done.append(True)

    if name == "tokenizer.json":  # what is there, but no file, is as no tokenizer
        done.append(ml.load_model(tmp_path).tokenizer is None)
        assert done == [True]
        return
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert done == [True]


@posix
def test_a_text_is_a_file_of_bounded_size(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match=f"{path}: wanted a file of at most 268435456 bytes"):
            read_text(path)
    with open(tmp_path / "large", "wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(ValueError, match="large: wanted a file of at most"):
        read_text(tmp_path / "large")
    with pytest.raises(ValueError, match="a folder, wanted a file"):
        read_text(tmp_path)
    (tmp_path / "lines").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "lines") == "a\nb\nc\n"


def test_json_is_of_32_mib_at_most(tmp_path):
    """Lists of 3 bytes take 32 times as much memory."""
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (1 << 25) + b"0")
    with pytest.raises(ValueError, match=r"config\.json: wanted a file of at most 33554432 bytes"):
        read_json(path, int)
    path.write_bytes(b" " * ((1 << 25) - 1) + b"7")
    assert read_json(path, int) == 7


def test_json_inside_of_another_file_is_of_32_mib_at_most():
    """Such as what an adapter's arrays say of themselves: a header may have 100 MB."""
    with pytest.raises(ValueError, match="place: JSON of 40,000,002 characters, wanted at most"):
        parse_json("place", "[" + "0," * 20_000_000 + "]")


def test_a_log_that_goes_on_is_whole_where_that_is_interrupted(tmp_path, monkeypatch):
    """The lines that it keeps are written to another file, which takes its place."""
    lines = [json.dumps({"step": step, "evaluation": 0}) + "\n" for step in (1, 2, 3)]
    run = Run(None, History(), steps=4, step=2, save=None)
    path = tmp_path / "log.jsonl"
    path.write_text("".join(lines))

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        Log(path).start(run)
    assert path.read_text() == "".join(lines)
    monkeypatch.undo()
    Log(path).start(run)
    assert path.read_text() == "".join(lines[:2])


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    """As compare does: two runs are never mixed."""
    (tmp_path / "adapters" / "full").mkdir(parents=True)
    (tmp_path / "results.json").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path) as new:
        (new / "results.json").write_text("new")
        (new / "adapters" / "lora").mkdir(parents=True)
        raise KeyboardInterrupt
    assert (tmp_path / "results.json").read_text() == "old"
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["full"]
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "results.json").write_text("of a run that was killed")
    with replacing(tmp_path) as new:
        (new / "adapters" / "lora").mkdir(parents=True)
    assert (tmp_path / "results.json").read_text() == "old"
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["lora"]
    assert {p.name for p in tmp_path.iterdir()} == {"adapters", "results.json", "mine.txt"}


def test_temporary_files_of_killed_processes_are_removed_a_day_later(tmp_path):
    old, new, other = (
        tmp_path / name for name in (".a.json.0123abcd.tmp", ".a.json.9876fedc.tmp", "mine.tmp")
    )
    for path in (old, new, other):
        path.write_bytes(b"part")
    for path in (old, other):
        os.utime(path, (time.time() - 90_000,) * 2)
    write_together({tmp_path / "b.json": b"{}"})
    assert {path.name for path in tmp_path.iterdir()} == {new.name, other.name, "b.json"}
