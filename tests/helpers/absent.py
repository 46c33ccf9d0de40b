"""The beginning of a program for a process that cannot import openpali, as where it is not installed."""

# the editable install puts openpali on the path by a finder of its own: nothing of that name may be found
ABSENT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("openpali", "openpali_cli"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
try:
    import openpali
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("openpali can be imported here, so this shows nothing")
"""
