import json
import multiprocessing
import pickle

from openpali.data.records import BadRecord, SkipLog


def test_a_bad_record_is_one_sentence_and_survives_pickling():
    bad = BadRecord("my.jsonl", 3, "the image a.png does not exist", "Check the path.")
    assert str(bad) == "my.jsonl:3: the image a.png does not exist. Check the path."
    assert str(pickle.loads(pickle.dumps(bad))) == str(bad)
    assert json.loads(bad.to_json()) == {
        "file": "my.jsonl",
        "record": "3",
        "reason": "the image a.png does not exist",
        "remedy": "Check the path.",
    }


def test_reading_lists_each_record_once(tmp_path):
    for log in (SkipLog(), SkipLog(tmp_path / "new" / "skipped.jsonl"), SkipLog(tmp_path)):
        for number in (1, 2, 1):
            log.add(BadRecord("a.jsonl", number, "no\nreason"))
        assert [row["record"] for row in log.read()] == ["1", "2"]
    # a second process finds the same file and names a record again
    SkipLog(tmp_path).add(BadRecord("a.jsonl", 1, "no\nreason"))
    assert len((tmp_path / "skipped_records.jsonl").read_text().splitlines()) == 3
    assert [row["record"] for row in SkipLog(tmp_path).read()] == ["1", "2"]


def _add(path, worker):
    log = SkipLog(path)
    for number in range(50):
        log.add(BadRecord(f"{worker}.jsonl", number, "x" * 500))


def test_processes_share_a_file(tmp_path):
    path = tmp_path / "skipped.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=_add, args=(path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = SkipLog(path).read()
    assert {(row["file"], row["record"]) for row in rows} == {
        (f"{w}.jsonl", str(n)) for w in range(4) for n in range(50)
    }
