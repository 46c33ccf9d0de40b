from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import level, numbers, write_clip
from PIL import Image

from openpali.data.images import video
from openpali.data.images.video import BadVideo, FrameSampling, read_clip


@pytest.fixture
def clip(tmp_path) -> Path:
    """27 frames at 8 a second, a key frame every half second."""
    return write_clip(tmp_path / "clip.mp4", 27)


def test_times_of_samplings():
    assert FrameSampling(4).times(2, 4) == [2.25, 2.75, 3.25, 3.75]
    assert FrameSampling(4, stride=0.5).times(1, 9) == [1, 1.5, 2, 2.5]
    # too short: the last moment before the end, again and again
    assert FrameSampling(4, stride=0.5).times(1, 2) == [1, 1.5, 1.5, 1.5]
    assert FrameSampling(3, stride=5).times(1, 2) == [1, 1, 1]
    wrong: list[dict[str, Any]] = [{"num_frames": 0}, {"num_frames": 1000}, {"stride": 0.0}, {"stride": float("nan")}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            FrameSampling(**options)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")]
)
def test_frames_are_those_of_their_times(name, codec, tmp_path):
    path = write_clip(tmp_path / name, 24, codec=codec)
    images = read_clip(path, FrameSampling(3))
    assert [image.size for image in images] == [(32, 16)] * 3
    assert all(image.mode == "RGB" for image in images)
    # the middles of three seconds, at 8 frames a second
    assert numbers(images) == [4, 12, 20]
    assert np.asarray(images[0])[8, 4].min() > 240
    assert numbers(read_clip(path, FrameSampling(24))) == list(range(24))
    assert numbers(read_clip(path, FrameSampling(4, stride=0.25), start=1)) == [8, 10, 12, 14]
    assert numbers(read_clip(path, FrameSampling(2), start=1, end=2)) == [10, 14]


def test_short_clips_repeat_frames(tmp_path):
    path = write_clip(tmp_path / "short.mp4", 3)
    assert numbers(read_clip(path, FrameSampling(6))) == [0, 0, 1, 1, 2, 2]
    assert numbers(read_clip(path, FrameSampling(5, stride=0.125))) == [0, 1, 2, 2, 2]
    assert numbers(read_clip(write_clip(tmp_path / "one.mp4", 1))) == [0] * 16


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_a_long_clip_is_not_decoded_as_a_whole(name, tmp_path, monkeypatch):
    path = write_clip(tmp_path / name, 600, key_every=8)
    count = 0

    def counted(container, stream):
        nonlocal count
        for frame in container.decode(stream):
            count += 1
            yield frame

    monkeypatch.setattr(video, "decoded", counted)
    found = read_clip(path, FrameSampling(4))
    grey = [np.asarray(image)[4:-4, -4:].mean() for image in found]
    np.testing.assert_allclose(grey, [level(number) for number in (75, 225, 375, 525)], atol=3)
    # from the key frame before each one to the frame behind it
    assert count < 4 * 12
    # the same frames as without seeking
    monkeypatch.setattr(video._Reader, "_is_worth_a_jump", lambda *_: False)
    everything = read_clip(path, FrameSampling(4))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, everything))
    assert count > 500


def test_a_clip_is_turned_upright(tmp_path):
    image = read_clip(write_clip(tmp_path / "turned.mp4", 4, rotation=90), FrameSampling(1))[0]
    assert image.size == (16, 32)
    # the matrix turns counter-clockwise, so what is left comes to lie below
    assert np.asarray(image)[28, 8].min() > 240
    assert np.asarray(image)[4, 8].max() < 240


def test_frames_are_shrunk_by_a_whole_factor_with_margin(clip):
    assert [read_clip(clip, decode_size=size)[0].size for size in (16, 4, 2)] == [(32, 16), (16, 8), (8, 4)]
    assert numbers(read_clip(clip, FrameSampling(3), decode_size=4)) == numbers(read_clip(clip, FrameSampling(3)))


def test_what_is_wrong_with_a_file_is_said(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("hello, this is no video at all")
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    for name, reason in [
        ("none.mp4", "none.mp4 does not exist"),
        ("text.mp4", "text.mp4 cannot be decoded"),
        ("half.mp4", "half.mp4 cannot be decoded"),
        ("list.m3u8", "list.m3u8 cannot be decoded"),
        ("sound.mp4", "sound.mp4 holds no video"),
    ]:
        with pytest.raises(BadVideo, match=reason):
            read_clip(tmp_path / name)
    with pytest.raises(BadVideo, match=r"is 3\.375 long, which leaves nothing of 5 to 6"):
        read_clip(clip, start=5, end=6)
    with pytest.raises(BadVideo, match="leaves nothing of 2 to 2"):
        read_clip(clip, start=2, end=2)


def test_a_file_that_ends_before_its_header_says(tmp_path):
    whole = write_clip(tmp_path / "whole.avi", 80, codec="mpeg4")
    data = whole.read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadVideo, match=r"half\.avi is truncated: it ends before second"):
        read_clip(tmp_path / "half.avi")


def test_a_damaged_frame_in_the_middle(tmp_path):
    data = bytearray(write_clip(tmp_path / "whole.mp4", 27, key_every=100).read_bytes())
    begin = data.find(b"mdat") + 900
    data[begin : begin + 200] = bytes(range(200))
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(BadVideo, match=r"damaged\.mp4 (cannot be decoded|has a damaged frame)"):
        read_clip(tmp_path / "damaged.mp4")


def test_too_large_frames_are_refused_before_they_are_decoded(clip, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    monkeypatch.setattr(video, "decoded", lambda *_: pytest.fail("decoded before its size was checked"))
    with pytest.raises(BadVideo, match=r"frames of 32x16 pixels.*Convert it"):
        read_clip(clip)


def test_a_folder_of_images_is_a_clip(tmp_path, tmp_path_factory):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 16), (level(number),) * 3).save(folder / f"frame{number}.png")
    (folder / "notes.txt").write_text("not a frame")
    assert numbers(read_clip(folder, FrameSampling(12))) == list(range(12))
    assert numbers(read_clip(folder, FrameSampling(4))) == [1, 4, 7, 10]
    assert numbers(read_clip(folder, FrameSampling(4, stride=2), start=5)) == [5, 7, 9, 11]
    # one to three seconds at four images a second: images 4 to 11
    assert numbers(read_clip(folder, FrameSampling(4), start=1, end=3, frame_rate=4)) == [5, 7, 9, 11]
    (folder / "frame3.png").write_bytes(b"nonsense")
    with pytest.raises(BadVideo, match=r"frame3\.png is not an image"):
        read_clip(folder, FrameSampling(12))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "frame3.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (folder / "frame3.png").unlink()
    (folder / "frame3.png").symlink_to(elsewhere)
    with pytest.raises(BadVideo, match="link out of its folder"):
        read_clip(folder, FrameSampling(12))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadVideo, match="holds no images"):
        read_clip(tmp_path / "empty")
