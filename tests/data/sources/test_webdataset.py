import functools
import gzip
import http.server
import io
import json
import random
import tarfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openpali.data.files.shard_files import RemoteFile, braces, find_shards, open_shard
from openpali.data.files.tar_shards import Place, read_samples
from openpali.data.images import open_image
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.data.sources.webdataset import WebDataset
from openpali.data.tasks import load_task
from openpali.scripts.web.running.files import write_shard


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    """A flat image whose colour tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, number // 256, 50)).save(file, kind)
    return file.getvalue()


def sample(number: int, **others: bytes) -> tuple[str, dict[str, bytes]]:
    members = {"png": image_bytes(number), "txt": f"image {number}".encode()}
    return f"{number:06}", members | others


@pytest.fixture
def shard(tmp_path) -> Path:
    write_shard(tmp_path / "train-000.tar", [sample(number) for number in range(10)])
    return tmp_path / "train-000.tar"


def good_and_bad(path: Path, **options) -> tuple[list[dict], list[BadRecord]]:
    source, good, bad = WebDataset(str(path), **options), [], []
    for own in source.samples(0):
        try:
            good.append(source.record(own))
        except BadRecord as error:
            bad.append(error)
    return good, bad


def test_records_in_order_with_images_and_captions(shard):
    source = load_source({"name": "webdataset", "path": str(shard), "language": "de"})
    assert isinstance(source, WebDataset)
    records = list(source.records())
    assert [record["id"] for record in records] == [f"train-000:{number:06}" for number in range(10)]
    assert records[3]["captions"] == {"de": "image 3"}
    assert records[3]["image"].getpixel((0, 0)) == (3, 0, 50)
    with pytest.raises(BadRecord, match="are iterable-style"):
        TaskDataset(source, load_task({"name": "caption"}))


def test_json_gives_captions_by_language_and_other_keys(tmp_path):
    full = {"captions": {"en": ["a", "b"], "th": "c"}, "keywords": {"en": ["x"]}, "id": "mine", "licence": "CC0"}
    listed, other = {"caption": ["one", "two"]}, {"text": "three", "caption": None}
    path = tmp_path / "a.tar"
    contents = [full, listed, other]
    write_shard(
        path,
        [(str(n), {"jpg": image_bytes(n, "JPEG"), "json": json.dumps(c).encode()}) for n, c in enumerate(contents)],
    )
    first, second, third = good_and_bad(path)[0]
    assert first["captions"] == full["captions"]
    assert (first["keywords"], first["licence"], first["id"]) == ({"en": ["x"]}, "CC0", "a:0")
    assert second["captions"] == {"en": ["one", "two"]}
    assert third["captions"] == {"en": "three"}
    write_shard(path, [sample(5, json=json.dumps({"captions": {"fr": "cinq"}}).encode())])
    assert good_and_bad(path)[0][0]["captions"] == {"fr": "cinq", "en": "image 5"}


def test_boxes_serve_detection(tmp_path):
    item = {"names": {"en": "cup"}, "box": [0.0, 0.5, 1, 1.0]}
    write_shard(tmp_path / "a.tar", [sample(1, json=json.dumps({"objects": [item]}).encode())])
    ((record,), _) = good_and_bad(tmp_path / "a.tar")
    example = load_task({"name": "detect"}).example(record, random.Random(0))
    assert example is not None
    assert (example.boxes[0].y0, example.boxes[0].x1) == (0.5, 1)


def test_several_images_and_folders_in_names(tmp_path):
    members = {"1.png": image_bytes(1), "0.webp": image_bytes(0, "WEBP"), "txt": b"two"}
    write_shard(tmp_path / "a.tar", [("deep/one", members), ("deep/two", {"png": image_bytes(2), "txt": b"t"})])
    first, second = good_and_bad(tmp_path / "a.tar")[0]
    assert [image.size for image in first["images"]] == [(8, 6), (8, 6)]
    assert first["images"][1].getpixel((0, 0)) == (1, 0, 50)
    assert second["id"] == "a:deep/two"


MALFORMED = {
    "no image": ({"txt": b"text"}, "it has no image, but txt"),
    "not an image": ({"png": b"nothing", "txt": b"text"}, "not an image that can be read"),
    "cut image": ({"png": image_bytes(1)[:45], "txt": b"text"}, "truncated|cannot be decoded"),
    "no text": ({"png": image_bytes(1)}, "it has no text"),
    "blank text": ({"png": image_bytes(1), "txt": b" \n"}, "it has no text"),
    "not UTF-8": ({"png": image_bytes(1), "txt": b"\xff\xfe\xfa"}, "its txt is not UTF-8"),
    "bad JSON": ({"png": image_bytes(1), "json": b'{"captions": '}, "its json is not JSON"),
    "deep JSON": ({"png": image_bytes(1), "json": b"[" * 200_000}, "its json is not JSON"),
    "JSON list": ({"png": image_bytes(1), "json": b"[1]"}, "its json is not an object"),
    "captions of numbers": (
        {"png": image_bytes(1), "json": b'{"captions": {"en": 3}}'},
        'its "captions" are not texts',
    ),
    "suffix of numbers": ({"png": image_bytes(1), "json": b'{"suffix": 3}'}, 'its "suffix" is not text'),
    "box in pixels": (
        {"png": image_bytes(1), "json": b'{"objects": [{"names": {"en": "cup"}, "box": [2, 3, 8, 6]}]}'},
        "the box .* is not",
    ),
    "objects of words": ({"png": image_bytes(1), "json": b'{"objects": ["cup"]}'}, 'its "objects" are not a list'),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_samples_are_named_and_passed_over(tmp_path, case):
    members, reason = MALFORMED[case]
    write_shard(tmp_path / "a.tar", [sample(1), ("broken", members), sample(2)])
    good, (bad,) = good_and_bad(tmp_path / "a.tar")
    assert [record["id"] for record in good] == ["a:000001", "a:000002"]
    assert (bad.file, bad.record) == ("a.tar", "broken")
    with pytest.raises(BadRecord, match=reason):
        raise bad


def test_a_image_too_large_is_not_decoded(tmp_path, monkeypatch):
    write_shard(tmp_path / "a.tar", [sample(1)])
    monkeypatch.setattr(open_image, "MAX_PIXELS", 40)
    good, (bad,) = good_and_bad(tmp_path / "a.tar")
    assert not good
    assert "8x6" in bad.reason


def add(archive: tarfile.TarFile, name: str, content: bytes = b"x", **attributes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def test_names_that_lead_out_and_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "../out.png", image_bytes(1))
        add(archive, "/etc/passwd.png", image_bytes(1))
        add(archive, "link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.png", b"", type=tarfile.LNKTYPE, linkname="../out.png")
        add(archive, "fifo.png", b"", type=tarfile.FIFOTYPE)
        add(archive, "folder", b"", type=tarfile.DIRTYPE)
        add(archive, "._hidden.png", b"resource fork")
        for name in ("same.png", "same.png", "good.png"):
            add(archive, name, image_bytes(7))
        add(archive, "good.txt", b"text")
    good, bad = good_and_bad(tmp_path / "a.tar")
    assert [record["id"] for record in good] == ["a:good"]
    reasons = ["leads out"] * 2 + ["link or a device"] * 3 + ["there twice"]
    assert all(reason in error.reason for reason, error in zip(reasons, bad, strict=True))
    assert not list(tmp_path.glob("*.png"))


def test_a_truncated_shard_gives_what_precedes_the_damage(shard):
    content = shard.read_bytes()
    starts = [own.place.offset for own in read_samples(str(shard), "s")]
    # in the image of sample 6, in a header, and between header and content
    for cut in (starts[6] + 512 + 40, starts[6] + 100, starts[6] + 512):
        shard.write_bytes(content[:cut])
        good, (bad,) = good_and_bad(shard)
        assert [record["id"][-1] for record in good] == list("012345")
        assert "damaged here or ends too early" in bad.reason
        source = WebDataset(str(shard))
        (*_, last) = source.samples(0)
        assert last.lost
        assert list(source.samples(0, last.after)) == []
    shard.write_bytes(content[: starts[6]] + b"garbage!" * 64 + content[starts[6] + 512 :])
    assert len(good_and_bad(shard)[0]) == 6
    assert "no header of a member" in good_and_bad(shard)[1][0].reason
    shard.write_bytes(b"")
    assert [error.record for error in good_and_bad(shard)[1]] == ["byte 0"]


def test_compressed_shards_and_their_damage(shard, tmp_path):
    packed = gzip.compress(shard.read_bytes(), 0)
    for name in ("b.tar.gz", "b.tgz"):
        (tmp_path / name).write_bytes(packed)
        good, bad = good_and_bad(tmp_path / name)
        assert [record["id"] for record in good] == [f"b:{number:06}" for number in range(10)]
        assert not bad
    (tmp_path / "b.tgz").write_bytes(packed[: len(packed) // 2])
    good, (bad,) = good_and_bad(tmp_path / "b.tgz")
    assert 0 < len(good) < 10
    assert "ends too early" in bad.reason


def test_a_shard_that_vanished_is_a_bad_record(shard):
    source = WebDataset(str(shard))
    shard.unlink()
    (lost,) = source.samples(0)
    with pytest.raises(BadRecord, match="train-000.tar:byte 0: there is no such shard"):
        source.record(lost)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_reading_goes_on_from_any_place_and_by_parts(shard, tmp_path, ending):
    path = tmp_path / f"c{ending}"
    path.write_bytes(gzip.compress(shard.read_bytes()) if ending == ".tar.gz" else shard.read_bytes())
    source = WebDataset(str(path))
    whole = list(source.samples(0))
    for index, own in enumerate(whole):
        assert own.place.number == index
        assert [s.key for s in source.samples(0, own.after)] == [s.key for s in whole[index + 1 :]]
    for parts in (2, 3, 12):
        shares = [[s.key for s in source.samples(0, Place(), part, parts)] for part in range(parts)]
        assert sorted(key for share in shares for key in share) == [s.key for s in whole]
        assert shares[1] == [s.key for s in whole[1::parts]]


def test_what_is_passed_over_is_not_read(shard, monkeypatch):
    reads = []
    real = tarfile.ExFileObject.read
    monkeypatch.setattr(tarfile.ExFileObject, "read", lambda self, *a: reads.append(self.name) or real(self, *a))
    list(WebDataset(str(shard)).samples(0, Place(), 1, 5))
    assert len(reads) == 4


def test_memory_holds_one_sample(tmp_path):
    big = np.random.default_rng(0).bytes(200_000)
    write_shard(tmp_path / "a.tar", ((str(n), {"png": big, "txt": b"t"}) for n in range(60)))
    tracemalloc.start()
    for _ in WebDataset(str(tmp_path / "a.tar")).samples(0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_patterns_and_what_is_wrong_with_them(tmp_path):
    assert braces("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    for folder in ("x", "y"):
        for number in range(2):
            write_shard(tmp_path / folder / f"s-{number}.tar", [sample(number)])
    (tmp_path / "x" / ".77-s-2.tar").write_bytes(b"half")
    assert find_shards(f"{tmp_path}/x/*.tar")[1] == find_shards(f"{tmp_path}/x")[1]
    assert find_shards(f"{tmp_path}/x")[1] == ["s-0", "s-1"]
    assert find_shards([f"{tmp_path}/x", f"{tmp_path}/y/s-{{0..1}}.tar"])[1] == ["x/s-0", "x/s-1", "y/s-0", "y/s-1"]
    assert [Path(url).name for url in find_shards(f"{tmp_path}/y/*1.tar")[0]] == ["s-1.tar"]
    assert find_shards("https://example.org/a-{0..1}.tar")[0][1] == "https://example.org/a-1.tar"
    for path, message in [
        ("pipe:cat a.tar", "never from a command"),
        (f"{tmp_path}/none.tar", "there is no shard"),
        (f"{tmp_path}/*.zip", "there are no shards at"),
        ([], "there are no shards"),
        ([f"{tmp_path}/x", f"{tmp_path}/x/s-0.tar"], "listed twice"),
        ("a-{0..}.tar", "write"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_shards(path)


@pytest.fixture
def server(tmp_path):
    """The folder over HTTP, without ranges, as the simplest server has it."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_shards_on_another_machine(shard, server):
    with tarfile.open(shard, "a") as archive:
        # larger than what fsspec asks for at once
        add(archive, "large.bin", bytes(6 * 2**20))
        add(archive, "last.txt", b"end")
    here = list(WebDataset(str(shard)).samples(0))
    source = WebDataset(f"{server}/{shard.name}")
    assert [own.members for own in source.samples(0)] == [own.members for own in here]
    assert [own.key for own in source.samples(0, here[6].after)] == [own.key for own in here[7:]]
    (lost,) = WebDataset(f"{server}/none-{{0..3}}.tar").samples(2)
    assert lost.problem is not None
    assert "there is no such shard" in lost.problem[0]


def test_a_connection_that_breaks_is_taken_up_again(shard, monkeypatch):
    content, opened = shard.read_bytes(), []

    class Torn(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 3000 and len(opened) < 3:
                raise ConnectionError("reset by peer")
            return super().read(min(size, 1000))

    monkeypatch.setattr("openpali.data.files.shard_files._WAITS", (0, 0, 0))
    monkeypatch.setattr(
        "fsspec.open", lambda *a, **k: type("F", (), {"open": lambda self: opened.append(1) or Torn(content)})()
    )
    with io.BufferedReader(RemoteFile("https://example.org/a.tar"), 4096) as file:
        assert file.read() == content
    assert len(opened) == 3
    monkeypatch.setattr("openpali.data.files.shard_files._WAITS", ())
    opened.clear()
    with pytest.raises(OSError, match="example.org/a.tar cannot be read: reset by peer"):
        io.BufferedReader(RemoteFile("https://example.org/a.tar"), 4096).read()
    with open_shard(str(shard)) as file:
        assert file.read() == content


def test_records_set_aside_are_not_trained_on(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", [sample(number * 20 + n) for n in range(20)])
    source = WebDataset(str(tmp_path))
    held_out = source.set_aside()
    names = [held_out[index]["id"] for index in range(len(held_out))]
    assert names == [f"s-0:{n:06}" for n in range(4)]
    rest = [record["id"] for record in source.records()]
    assert len(rest) == 36
    assert not set(rest) & set(names)
    assert [own.members for own in source.set_aside().kept] == [own.members for own in held_out.kept]
    other = WebDataset(str(tmp_path / "s-0.tar"), validation_path=str(tmp_path / "s-1.tar"), validation_size=5)
    assert [other.set_aside()[index]["id"] for index in (0, 4)] == ["s-1:000020", "s-1:000024"]
    assert len(list(other.records())) == 20


def test_many_small_shards_give_whole_ones_for_validation(tmp_path):
    for number in range(11):
        write_shard(tmp_path / f"s-{number:02}.tar", [sample(number * 3 + n) for n in range(3)])
    source = WebDataset(str(tmp_path), validation_size=5)
    assert len(source.set_aside()) == 5
    assert source.reserved == {0: 3, 1: 2}
    assert len(list(source.records())) == 28
