import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipModel, SiglipProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.sources.webdataset import WebDataset
from openpali.data.tokenizer import train_tokenizer
from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.scripts import filter_pairs
from openpali.scripts.filter_pairs import main, summary, threshold
from openpali.scripts.shards.pair_scores import PairScores, load
from openpali.scripts.shards.parallel import claim, write_shard

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    """The folder of a random SigLIP, to which images and texts are not all alike."""
    tokenizer = train_tokenizer(["red", "green", "an image of", "number"] * 4, vocab_size=300)
    text = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 8, "projection_size": 16}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(vision_config=SIZES | {"image_size": 16, "patch_size": 8}, text_config=text))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = str(tmp_path_factory.mktemp("siglip"))
    model.save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessorPil(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


def noise(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Three shards of 20 pairs, in two languages, with a broken image in each."""
    for shard in range(3):
        samples = []
        for number in range(shard * 20, shard * 20 + 20):
            captions = {"captions": {"en": [f"number {number}", "red"], "de": f"Nummer {number * 7}"}}
            samples.append((f"{number:04}", {"png": noise(number), "json": json.dumps(captions).encode()}))
        samples.insert(3, (f"broken{shard}", {"png": b"nothing", "txt": b"text"}))
        write_shard(tmp_path / "in" / f"s-{shard}.tar", samples)
    return tmp_path / "in"


def expected(siglip: str, shards: Path, languages: tuple[str, ...], reduce) -> dict[str, float]:
    model, processor = SiglipModel.from_pretrained(siglip).eval(), SiglipProcessor.from_pretrained(siglip)
    found = {}
    for record in WebDataset(str(shards)).records():
        texts = [
            t for k, v in record["captions"].items() if k in languages for t in ([v] if isinstance(v, str) else v)
        ]
        image = embed_images(model, processor.image_processor, [record["image"]])
        found[record["id"]] = float(reduce((embed_texts(model, processor.tokenizer, texts) @ image[0]).tolist()))
    return found


def run(siglip: str, shards: Path, output: Path, *more: str) -> dict:
    main(["--shards", str(shards), "--model", siglip, "--output", str(output), "--batch-size", "7", *more])
    return json.loads((output / "report.json").read_text())


def kept(output: Path) -> set[str]:
    return {record["id"] for record in WebDataset(str(output / "shards")).records()}


@pytest.mark.parametrize(("reduce", "function", "languages"), [("best", max, ("en", "de")), ("worst", min, ("en",))])
def test_the_best_share_over_all_shards_is_kept(siglip, shards, tmp_path, capsys, reduce, function, languages):
    more = [] if len(languages) == 2 else ["--languages", *languages]
    report = run(siglip, shards, tmp_path / "out", "--reduce", reduce, "--processes", "1", *more)
    scores = expected(siglip, shards, languages, function)
    best = sorted(scores, key=lambda name: scores[name], reverse=True)[:24]
    assert kept(tmp_path / "out") == set(best)
    assert (report["pairs"], report["kept"], report["unusable"]) == (60, 24, 3)
    assert report["threshold"] == pytest.approx(scores[best[-1]], abs=1e-5)
    assert sum(report["histogram"]["counts"]) == 60
    assert sum(own["kept"] for own in report["shards"].values()) == 24
    assert len({own["kept"] for own in report["shards"].values()}) > 1
    assert "24 of 60 pairs kept" in capsys.readouterr().out
    # what is kept is kept as it was
    before = {own.key: own.members for shard in range(3) for own in WebDataset(str(shards)).samples(shard)}
    after = WebDataset(str(tmp_path / "out" / "shards"))
    assert all(before[own.key] == own.members for shard in range(3) for own in after.samples(shard))


def test_processes_give_the_same_and_what_is_finished_is_not_done_again(siglip, shards, tmp_path, monkeypatch):
    run(siglip, shards, tmp_path / "one", "--processes", "1")
    run(siglip, shards, tmp_path / "two", "--processes", "2")
    files = [sorted((tmp_path / name / "shards").iterdir()) for name in ("one", "two")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    # stopped while it scored the second shard and wrote the third
    (tmp_path / "one" / "scores" / "s-1.parquet").unlink()
    (tmp_path / "one" / "shards" / "s-2.tar").unlink()
    (tmp_path / "one" / "shards" / ".99-s-2.tar").write_bytes(b"half")
    scored, untouched = [], files[0][0].stat().st_mtime_ns
    real = PairScores.pairs
    monkeypatch.setattr(PairScores, "pairs", lambda self, url, name: scored.append(name) or real(self, url, name))
    run(siglip, shards, tmp_path / "one", "--processes", "1")
    assert scored == ["s-1"]
    assert files[0][0].stat().st_mtime_ns == untouched
    assert files[0][2].read_bytes() == files[1][2].read_bytes()


def test_other_settings_and_mistakes_are_refused(siglip, shards, tmp_path, capsys):
    claim(tmp_path / "out", {"share": 0.4, "shards": ["a"]})
    claim(tmp_path / "out", {"share": 0.4, "shards": ["a"]})
    with pytest.raises(SystemExit, match="share: 0.4 before, 0.5 now.*give another --output"):
        claim(tmp_path / "out", {"share": 0.5, "shards": ["a"]})
    with pytest.raises(SystemExit, match="there is no shard"):
        run(siglip, shards / "none.tar", tmp_path / "out")
    with pytest.raises(SystemExit):
        run(siglip, shards, tmp_path / "out", "--share", "0")
    assert "--share 0.0 is not above 0" in capsys.readouterr().err
    write_shard(tmp_path / "bad" / "b.tar", [("x", {"png": b"nothing", "txt": b"t"})])
    with pytest.raises(SystemExit, match="no pair of the 1 shards can be scored"):
        run(siglip, tmp_path / "bad", tmp_path / "other", "--processes", "1")


def test_the_type_of_weights(siglip, shards, tmp_path):
    whole, half = (
        run(siglip, shards, tmp_path / name, "--processes", "1", "--dtype", name) for name in ("auto", "bfloat16")
    )
    assert half["settings"]["dtype"] == "bfloat16"
    assert "dtype" not in whole["settings"]
    assert load(siglip, "cpu", "auto")[0].dtype == torch.float32
    assert load(siglip, "cpu", "bfloat16")[0].dtype == torch.bfloat16
    # eight bits of a number are left
    assert whole["threshold"] != half["threshold"] == pytest.approx(whole["threshold"], abs=0.05)
    with pytest.raises(SystemExit, match="dtype"):
        run(siglip, shards, tmp_path / "bfloat16", "--processes", "1", "--dtype", "float16")


def test_threshold_and_summary():
    scores = np.array([0.1, 0.4, 0.3, 0.2, 0.5])
    assert threshold(scores, 0.4) == 0.4
    assert threshold(scores, 0.41) == 0.3
    assert threshold(scores, 1.0) == 0.1
    assert threshold(scores, 0.01) == 0.5
    report = summary(scores, 2, 0.4, 0.4)
    assert report["quantiles"]["0.5"] == 0.3
    assert sum(report["histogram"]["counts"]) == 5


def test_the_help_can_be_read(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--share" in capsys.readouterr().out
    assert "python -m openpali.scripts.filter_pairs" in (filter_pairs.__doc__ or "")
