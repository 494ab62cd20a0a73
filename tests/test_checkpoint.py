import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from errno import ENOSPC
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cerebsim import Cerebellum, CheckpointError
from cerebsim import checkpoint as files

WIRINGS = [
    {},
    {"replacement": True, "fan_in": 3},
    {"wiring": "local"},
    {"wiring": "full"},
    {"ltd": False},
    {"threshold": 0.25},
    {"purkinje_cells": 1},
    {"initial_readout": "zero"},
    {"seed": 2**64 - 1},
]


def network(**more) -> Cerebellum:
    net = Cerebellum(12, 70, **{"purkinje_cells": 3} | more)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.W.add_(torch.randn(net.W.shape, generator=g))
    net(torch.rand(5, 12, generator=g))  # moves mu
    return net.eval()


def path_in(folder: Path) -> Path:
    return folder / files.NAME


def write(folder: Path, tensors: dict, record: dict) -> None:
    """A file of the right form whose record says whatever the test wants, with a valid digest."""
    import hashlib

    record = {
        "file": "0" * 64,
        "tensors": {n: files.checksum(t) for n, t in tensors.items()},
    } | record
    raw = safetensors.torch.save(tensors, metadata={"cerebsim": json.dumps(record)})
    digest = hashlib.sha256(raw).hexdigest()
    path_in(folder).write_bytes(raw.replace(b"0" * 64, digest.encode(), 1))


@pytest.mark.parametrize("anatomy", WIRINGS, ids=str)
def test_what_was_saved_is_what_is_loaded(tmp_path, anatomy):
    net, x = network(**anatomy), torch.rand(9, 12)
    net.save(tmp_path / "new" / "folder")
    other = Cerebellum.load(tmp_path / "new" / "folder")
    assert other.config == net.config and not other.training
    assert torch.equal(other(x), net(x))
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == [files.NAME]


def test_tensors_and_facts_come_back(tmp_path):
    g = torch.Generator().manual_seed(0)
    tensors = {"a": torch.rand(3, 4, generator=g).T, "b": torch.arange(5), "e": torch.zeros(0, 2)}
    facts = {"text": 'quotes " and \\ and é', "number": 0.1, "none": None, "list": [1, 2]}
    files.save(tmp_path, tensors, facts)
    back, found = files.load(tmp_path)
    assert found == facts and back.keys() == tensors.keys()
    assert all(torch.equal(back[n], t) and back[n].dtype == t.dtype for n, t in tensors.items())


def test_a_checksum_sees_value_shape_and_dtype():
    zeros = torch.zeros(6)
    others = [torch.zeros(2, 3), torch.zeros(6, dtype=torch.int32), torch.zeros(5), -zeros, None]
    sums = [files.checksum(t) for t in [zeros, *others]]
    assert len(set(sums)) == len(sums)
    assert files.checksum(torch.rand(3, 2).T.zero_()) == files.checksum(torch.zeros(2, 3))


def damaged(raw: bytes, kind: str, draw: random.Random) -> bytes:
    at = draw.randrange(len(raw))
    size = 8 + int.from_bytes(raw[:8], "little")
    if draw.random() < 0.5:
        at = draw.randrange(size)  # the header is small, and gets half of the damage
    if kind == "bit":
        return raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
    if kind == "byte":
        return (
            raw[:at] + draw.choice([b" ", b"\t", b"\n", b"0", b"\xff", b'"', b"}"]) + raw[at + 1 :]
        )
    if kind == "cut":
        return raw[:at]
    if kind == "longer":
        return raw + draw.choice([b"\0", b" ", b"\n", raw[:at]])
    if kind == "insert":
        return raw[:at] + draw.choice([b" ", b"\0", b"1"]) + raw[at:]
    n = draw.randrange(1, 64)
    return raw[:at] + bytes(len(raw[at : at + n])) + raw[at + n :]  # "zeros"


@pytest.mark.parametrize("kind", ["bit", "byte", "cut", "longer", "insert", "zeros"])
def test_every_corruption_is_detected(tmp_path, kind):
    network().save(tmp_path)
    path = path_in(tmp_path)
    raw, draw, done = path.read_bytes(), random.Random(kind), 0
    while done < 60:
        bad = damaged(raw, kind, draw)
        if bad == raw:
            continue
        done += 1
        path.write_bytes(bad)
        with pytest.raises(CheckpointError) as error:
            Cerebellum.load(tmp_path)
        assert str(path) in str(error.value)
    path.write_bytes(raw)
    Cerebellum.load(tmp_path)


def test_the_damaged_tensor_is_named(tmp_path):
    network().save(tmp_path)
    path = path_in(tmp_path)
    raw = bytearray(path.read_bytes())
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    start = 8 + int.from_bytes(raw[:8], "little") + header["mu"]["data_offsets"][0]
    raw[start + 1] ^= 4
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="tensor mu is damaged"):
        Cerebellum.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read.*No such file"),
        (b"", "not a safetensors file, truncated or damaged"),
        (b"1234567", "not a safetensors file"),
        (b"Dear reader,\nthis is a letter.\n", "not a safetensors file"),
        (bytes(1000), "not a safetensors file"),
        (b"\xff" * 1000, "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "not a cerebsim checkpoint"),
        ((4).to_bytes(8, "little") + b"null", "not a cerebsim checkpoint"),
        (safetensors.torch.save({"W": torch.zeros(3)}), "not a cerebsim checkpoint"),
        (
            safetensors.torch.save({"W": torch.zeros(3)}, metadata={"format": "pt"}),
            "not a cerebsim checkpoint",
        ),
        (
            safetensors.torch.save({"W": torch.zeros(3)}, metadata={"cerebsim": "[1]"}),
            "not a cerebsim checkpoint",
        ),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_reason(tmp_path, content, reason):
    if content is not None:
        path_in(tmp_path).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        Cerebellum.load(tmp_path)
    assert str(error.value).startswith(str(path_in(tmp_path)))


def test_a_missing_folder_and_a_file_for_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="No such file.*Name a folder that"):
        Cerebellum.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Cerebellum.load(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        network().save(tmp_path / "file")


def test_another_format_is_named(tmp_path):
    net = network()
    net.save(tmp_path)
    tensors, facts = files.load(tmp_path)
    write(tmp_path, tensors, {"format": files.FORMAT, "facts": facts})
    assert torch.equal(Cerebellum.load(tmp_path).W, net.W)  # `write` writes what `save` does
    write(tmp_path, tensors, {"format": files.FORMAT + 1, "facts": facts})
    with pytest.raises(CheckpointError, match=f"format {files.FORMAT + 1}.*reads format"):
        Cerebellum.load(tmp_path)


def test_another_connectome_is_noticed(tmp_path):
    network().save(tmp_path)
    tensors, facts = files.load(tmp_path)
    facts["settings"]["circuit"]["seed"] = 1
    write(tmp_path, tensors, {"format": files.FORMAT, "facts": facts})
    with pytest.raises(CheckpointError, match="draws other synapses J") as error:
        Cerebellum.load(tmp_path)
    assert str(path_in(tmp_path)) in str(error.value)


def fail(*arguments, **keywords):
    raise OSError(ENOSPC, os.strerror(ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, where):
    network().save(tmp_path)
    before = path_in(tmp_path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(CheckpointError, match="No space left.*untouched.*Free space") as error:
            network(seed=1).save(tmp_path)
    assert str(path_in(tmp_path)) in str(error.value)
    assert path_in(tmp_path).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [files.NAME]
    network(seed=1).save(tmp_path)
    assert Cerebellum.load(tmp_path).config.seed == 1


def test_a_write_that_truly_fails_leaves_the_old_checkpoint(tmp_path):
    """The kernel refuses the bytes: no file of this process may pass 4 KiB for a moment."""
    network().save(tmp_path)
    before = path_in(tmp_path).read_bytes()
    big = Cerebellum(12, 5000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be saved.*File too large"):
            big.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path_in(tmp_path).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [files.NAME]


def test_what_a_killed_save_left_behind_is_cleared_away(tmp_path):
    partial = tmp_path / f".{files.NAME}.999999.partial"
    partial.write_bytes(b"half")
    network().save(tmp_path)
    assert not partial.exists()


def test_a_kill_during_a_save_leaves_a_whole_version(tmp_path):
    """50 kills at random moments. One process loads torch and forks a saver for each of them."""
    script = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        import torch
        from cerebsim import checkpoint
        torch.set_num_threads(1)
        folder = Path(sys.argv[1])
        version = 0
        checkpoint.save(folder, {"W": torch.zeros(300_000)}, {"version": 0})
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                while True:
                    version += 1
                    W = torch.full((300_000,), float(version))
                    checkpoint.save(folder, {"W": W}, {"version": version})
            print(child, flush=True)
            os.waitpid(child, 0)
            print("dead", flush=True)
            version += 10_000
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    draw, versions, partials = random.Random(0), [], 0
    try:
        for kills in range(400):
            if kills >= 50 and partials > 5:
                break  # 50 at least, and as many more as it takes to meet some saves half-way
            parent.stdin.write("go\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(draw.uniform(0.002, 0.06))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            tensors, facts = files.load(tmp_path)
            assert len(tensors["W"]) == 300_000 and (tensors["W"] == facts["version"]).all()
            versions.append(facts["version"])
            partials += any(tmp_path.glob("*.partial")) or any(tmp_path.glob(".*.partial"))
    finally:
        parent.stdin.close()
        parent.wait(timeout=10)
        parent.stdout.close()
    assert versions == sorted(versions) and len(set(versions)) > 10  # saves did happen
    assert partials > 5  # and were cut short
