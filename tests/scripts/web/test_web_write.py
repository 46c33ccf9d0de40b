"""The shards that are made: bytes of the images, merged records, and what has nothing to learn from."""

import json

from pyarrow import parquet
from raw_web import write_raw_web

from openpali.data.files.tar_shards import read_samples
from openpali.data.sources.webdataset import WebDataset
from openpali.scripts.web.counts import count_shard
from openpali.scripts.web.passes import steps_on_shard
from openpali.scripts.web.running.plan import WebArguments, plan_run
from openpali.scripts.web.write import write_kept


def test_a_shard_without_ray(tmp_path):
    write_raw_web(tmp_path, shards=1, size=15)
    shard, steps = str(tmp_path / "raw" / "0000.tar"), ["text_rules", "hashes"]
    run = plan_run(WebArguments(input=[shard], output=str(tmp_path / "out"), language="de", steps=steps))
    for plans in run.passes():
        steps_on_shard({"shard": 0}, run, plans)
    write_kept({"shard": 0}, run)
    counts = json.loads(count_shard({"shard": 0}, run)["counts"])
    # a caption that is an address, an empty image, and a record without text
    assert (counts["samples"], counts["unusable"], counts["bare"], counts["kept"]) == (15, 1, 1, 12)
    assert counts["steps"][0] == {"step": "01-text_rules", "reached": 14, "dropped": {"caption with an address": 1}}
    raw = {sample.key: sample for sample in read_samples(shard, "0000")}
    made = list(read_samples(str(tmp_path / "out" / "shards" / "0000.tar"), "0000"))
    assert [sample.key for sample in made] == [f"{number:04d}" for number in range(15) if number not in (8, 9, 11)]
    for sample in made:
        assert sample.members["jpg"] == raw[sample.key].members["jpg"]
        assert json.loads(sample.members["json"])["captions"]["de"].endswith("image")
    assert len(list(WebDataset(str(tmp_path / "out" / "shards")).records())) == 12
    assert [row["key"] for row in parquet.read_table(run.index("0000")).to_pylist()] == [own.key for own in made]
