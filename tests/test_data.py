import gzip
import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cerebsim import mnist
from cerebsim.data import Pictures, load_data
from cerebsim.errors import ArgumentError, CerebsimError, DataNotFound
from cerebsim.mnist import MNIST_MD5, cache_folder, find_mnist


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data of this machine is in reach, and no connection either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CEREBSIM_DATA", raising=False)

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return path


def picture_folder(root, shape=(5, 4), names=("cat", "dog")):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in names:
            for i in range(2):
                save(root / part / name / f"{i}.png", rng.integers(0, 256, shape))
    return f"folder:{root}"


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def tiny_mnist(root, monkeypatch):
    """Four IDX files of 6 and 3 pictures, with their own checksums in place of MNIST's."""
    import hashlib

    rng = np.random.default_rng(1)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    md5 = {}
    for part, n in (("train", 6), ("t10k", 3)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (n, 28, 28))),
            ("labels-idx1", np.arange(n)),
        ):
            file = raw / f"{part}-{kind}-ubyte"
            file.write_bytes(idx(array))
            md5[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    assert set(md5) == set(MNIST_MD5)
    monkeypatch.setattr(mnist, "MNIST_MD5", md5)
    return raw


def test_digits_are_split_the_same_way_every_time():
    data = load_data("digits")
    assert data.train.x.shape == (1437, 1, 8, 8) and data.test.x.shape == (360, 1, 8, 8)
    assert data.train.x.dtype == torch.float32 and data.train.y.dtype == torch.int64
    assert data.train.x.min() == 0 and data.train.x.max() == 1
    assert data.test.y.bincount().tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]
    assert len(data.classes) == 10
    # The pictures themselves, so that another order, scale or split is another data set.
    assert data.checksum == "da155899c1de5e1a75651a9458b85d56953117aef6a36b50b55c2a54a6bb714e"


def test_checksum_sees_pixels_labels_and_split(tmp_path):
    name = picture_folder(tmp_path / "p")
    sums = [load_data(name).checksum]
    assert load_data(name).checksum == sums[0]
    save(tmp_path / "p" / "train" / "cat" / "0.png", np.zeros((5, 4)))
    sums.append(load_data(name).checksum)
    (tmp_path / "p" / "train" / "cat" / "0.png").rename(tmp_path / "p/train/dog/0a.png")
    sums.append(load_data(name).checksum)
    (tmp_path / "p" / "train" / "dog" / "0a.png").rename(tmp_path / "p/test/dog/0a.png")
    sums.append(load_data(name).checksum)
    assert len(set(sums)) == 4


def test_pictures_unpack_count_and_cut():
    pictures = Pictures(torch.rand(5, 1, 2, 2), torch.arange(5))
    x, y = pictures
    assert x is pictures.x and y is pictures.y and len(pictures) == 5
    assert pictures.first(2).y.tolist() == [0, 1]
    assert len(pictures.first(9)) == 5 and pictures.first(None) is pictures


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(2, 4), torch.zeros(2).long(), "x: got shape"),
        (torch.rand(2, 1, 2, 2).double(), torch.zeros(2).long(), "x: got shape"),
        (torch.rand(0, 1, 2, 2), torch.zeros(0).long(), "x: got shape"),
        (torch.rand(2, 1, 2, 2), torch.zeros(3).long(), "y: got shape"),
        (torch.rand(2, 1, 2, 2), torch.zeros(2), "y: got shape"),
        (torch.rand(2, 1, 2, 2) + 1, torch.zeros(2).long(), "x: got pixels from 1"),
        (torch.rand(2, 1, 2, 2) - 1, torch.zeros(2).long(), "x: got pixels from -"),
        (torch.full((2, 1, 2, 2), torch.nan), torch.zeros(2).long(), "x: got pixels from nan"),
    ],
)
def test_pictures_refuse_what_they_are_not(x, y, message):
    with pytest.raises(ArgumentError, match=message):
        Pictures(x, y)


def test_first_refuses_none_at_all():
    with pytest.raises(ArgumentError, match="limit: got 0"):
        Pictures(torch.rand(2, 1, 2, 2), torch.zeros(2).long()).first(0)


@pytest.mark.parametrize("name", ["cifar", "", None, 3])
def test_an_unknown_data_set_lists_the_known_ones(name):
    with pytest.raises(ArgumentError, match="'digits', 'mnist', 'folder:PATH'"):
        load_data(name)


def test_mnist_is_read_from_the_folder_named(tmp_path, monkeypatch):
    raw = tiny_mnist(tmp_path / "here", monkeypatch)
    data = load_data("mnist", tmp_path / "here")
    assert data.train.x.shape == (6, 1, 28, 28) and data.test.y.tolist() == [0, 1, 2]
    pixels = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    assert torch.equal(data.test.x.flatten(), torch.tensor(pixels / 255, dtype=torch.float32))


def test_mnist_is_looked_for_in_environment_then_data_then_cache(tmp_path, monkeypatch):
    tiny_mnist(cache_folder(), monkeypatch)
    assert cache_folder() == tmp_path / "cache" / "cerebsim"
    assert find_mnist() == cache_folder()
    tiny_mnist(tmp_path / "data", monkeypatch)
    assert find_mnist().resolve() == tmp_path / "data"
    tiny_mnist(tmp_path / "env", monkeypatch)
    monkeypatch.setenv("CEREBSIM_DATA", str(tmp_path / "env"))
    assert find_mnist() == tmp_path / "env"
    assert find_mnist(tmp_path / "empty") == cache_folder()


def test_mnist_that_is_nowhere_says_what_to_put_where(tmp_path):
    raw = tmp_path / "mine" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataNotFound) as caught:
        load_data("mnist", tmp_path / "mine")
    message = str(caught.value)
    assert "no network in tests" in message and '"digits" is embedded' in message
    assert f"{raw / 'train-images-idx3-ubyte'}" not in message
    for file in list(MNIST_MD5)[1:]:
        assert f"{raw / file}  (MD5 {MNIST_MD5[file]})" in message
    assert not any(path.is_file() for path in cache_folder().rglob("*"))


def test_mnist_without_download_opens_no_connection(monkeypatch):
    monkeypatch.setattr(mnist, "_download", lambda root: pytest.fail("downloads"))
    with pytest.raises(DataNotFound, match="download=False"):
        load_data("mnist", download=False)


def test_mnist_is_downloaded_into_the_cache(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    source = tiny_mnist(tmp_path / "server", monkeypatch)
    packed = {}
    for path in source.iterdir():
        packed[path.name + ".gz"] = gzip.compress(path.read_bytes())

    def serve(url, download_root, filename, md5):
        from pathlib import Path

        raw = Path(download_root)
        (raw / filename).write_bytes(packed[filename])
        (raw / filename[:-3]).write_bytes(gzip.decompress(packed[filename]))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", serve)
    assert len(MNIST.resources) == 4
    assert len(load_data("mnist").train) == 6
    found = {path.name for path in cache_folder().rglob("*") if path.is_file()}
    assert found == set(MNIST_MD5)


def test_a_damaged_mnist_file_is_named(tmp_path, monkeypatch):
    raw = tiny_mnist(tmp_path / "here", monkeypatch)
    file = raw / "t10k-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataNotFound, match=r"t10k-labels-idx1-ubyte is damaged: MD5 expected \w+"):
        load_data("mnist", tmp_path / "here")


def test_folder_of_grey_pictures_stays_grey(tmp_path):
    data = load_data(picture_folder(tmp_path / "p"))
    assert data.train.x.shape == (4, 1, 5, 4) and data.test.x.shape == (4, 1, 5, 4)
    assert data.classes == ("cat", "dog") and data.train.y.tolist() == [0, 0, 1, 1]
    pixels = np.asarray(Image.open(tmp_path / "p" / "test" / "dog" / "1.png"))
    assert torch.equal(data.test.x[3, 0], torch.tensor(pixels / 255, dtype=torch.float32))


def test_folder_with_one_picture_in_colour_is_in_colour(tmp_path):
    name = picture_folder(tmp_path / "p")
    colour = np.arange(60).reshape(5, 4, 3)
    save(tmp_path / "p" / "test" / "dog" / "1.png", colour)
    data = load_data(name)
    assert data.train.x.shape == (4, 3, 5, 4)
    assert torch.equal(data.train.x[0, 0], data.train.x[0, 2])
    assert torch.equal(data.test.x[3], torch.tensor(colour).permute(2, 0, 1).float() / 255)


def test_folder_names_the_first_picture_of_another_size(tmp_path):
    name = picture_folder(tmp_path / "p")
    odd = save(tmp_path / "p" / "train" / "dog" / "0.png", np.zeros((5, 6)))
    with pytest.raises(ArgumentError, match=f"folder: got {odd} of 6 x 5 pixels, expected 4 x 5"):
        load_data(name)


@pytest.mark.parametrize("content", [b"not a picture", None])
def test_folder_names_a_broken_picture(tmp_path, content):
    name = picture_folder(tmp_path / "p", shape=(50, 40))
    broken = tmp_path / "p" / "test" / "cat" / "1.png"
    broken.write_bytes(content or broken.read_bytes()[:300])
    with pytest.raises(ArgumentError, match=f"folder: got {broken} .*Replace it or delete it"):
        load_data(name)


def test_folder_refuses_16_bits(tmp_path):
    name = picture_folder(tmp_path / "p")
    deep = tmp_path / "p" / "train" / "cat" / "0.png"
    Image.fromarray(np.full((5, 4), 40_000, dtype=np.uint16)).save(deep)
    with pytest.raises(ArgumentError, match=f"{deep} of 16 or 32 bits"):
        load_data(name)


def test_folder_without_test_or_pictures_or_classes(tmp_path):
    with pytest.raises(DataNotFound, match="train is not a folder"):
        load_data(f"folder:{tmp_path}")
    name = picture_folder(tmp_path / "p")
    for file in (tmp_path / "p" / "test" / "cat").iterdir():
        file.unlink()
    with pytest.raises(DataNotFound, match="test has no pictures for some class.*cat"):
        load_data(name)
    (tmp_path / "p" / "test" / "cat").rmdir()
    with pytest.raises(ArgumentError, match="classes .'cat', 'dog'. in train and .'dog'. in test"):
        load_data(name)


def test_a_torchvision_that_does_not_import_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(CerebsimError, match="torchvision does not import beside torch.*same index"):
        load_data("mnist")
