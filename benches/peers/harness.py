"""Where the peers' harness is, and how a file of this folder runs its sections in the harness's manner.

To be imported before the harness's own modules: it is what finds them. PEERS_DIR names the harness, PEERS_SITE the folder where its `run.py`
unpacked the peers.
"""
import datetime
import json
import os
import sys
import tempfile
import time
import traceback

HARNESS = os.environ.get("PEERS_DIR")
if not HARNESS or not os.path.exists(os.path.join(HARNESS, "attn.py")):
    sys.exit("PEERS_DIR names no folder with the peers' harness (attn.py, common.py)")
SITE = os.environ.setdefault("PEERS_SITE", os.path.join(tempfile.gettempdir(), "peers"))
sys.path[:0] = [HARNESS, os.path.join(SITE, "py")]

import torch  # noqa: E402

import common  # noqa: E402
from table import table as written  # noqa: E402


def hooked(kind, **inputs):
    """The project's kernels for one case. A hook that fails says so and offers none, so that the peers are timed all the same."""
    try:
        return common.ours(kind, **inputs)
    except Exception as error:
        print(f"ours: no {kind}: {error!r}"[:300], flush=True)
        return {}


def failed(section, case, peer, why):
    return dict(section=section, case=case, peer=peer, err=f"failed: {why}"[:170], note="")


def lost(section):
    """A kernel that loses the CUDA context makes the harness start the process again without it: these are that section's."""
    keys = [key.split(":", 2) for key in os.environ.get("PEERS_LOST", "").split(";") if key]
    return [failed(section, case, peer, "lost the CUDA context") for of, case, peer in keys if of == section]


def rounds_of(name, section):
    """The rows of one section: every peer is compiled and checked, then timed in rounds that go over all cases."""
    c = common.Section(name)
    broken = []
    try:
        torch.manual_seed(0)
        torch.cuda.empty_cache()
        for warm in [True] + [False] * int(os.environ.get("PEERS_ROUNDS", 3)):
            c.warm = warm
            section(c)
    except Exception as error:
        traceback.print_exc()
        broken.append(failed(name, "the section", "all after the rows above", str(error).strip().split("\n")[0]))
    # What failed while it was checked has a row too, that says why
    return list(c.rows.values()) + broken + lost(name)


def earlier(path):
    """What sections wrote before the process had to start again."""
    if not os.environ.get("PEERS_LOST") or not os.path.exists(path):
        return []
    with open(path) as f:
        return json.load(f)["rows"]


def measure(sections, file):
    """Runs {name: section} and prints a table. $OUT/file is written after every section, so that a run that is cut short keeps its rows."""
    path = os.path.join(os.environ.get("OUT", "."), file)
    rows, begun = earlier(path), time.time()
    done = {row["section"] for row in rows}
    meta = dict(date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), gpu=torch.cuda.get_device_name(), torch=torch.__version__,
                cudnn=torch.backends.cudnn.version())
    for name, section in sections.items():
        if name in done:
            continue
        rows += rounds_of(name, section)
        with open(path, "w") as f:
            json.dump(dict(meta=meta, rows=rows), f, indent=0)
        print(f"{name} at {time.time() - begun:.0f} s", flush=True)
    print(written(meta, rows), flush=True)
