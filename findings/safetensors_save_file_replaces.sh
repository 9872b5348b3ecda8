#!/usr/bin/env bash
# safetensors 0.8.0, torch 2.13.0, numpy 2.4.6: what save_file leaves at a path that exists, and with which permissions.
#
# A good guess: save_file(tensors, path) writes as open(path, "wb") does, and as torch.save(tensors, path) does: the mode of a new
# file follows the umask, that of an older one stays, a symbolic link is followed, and a device such as /dev/null is written to.
# What happens: it writes a temporary file of mode 0600 beside the path and renames it. So every file is readable by its owner
# alone, whatever the umask says and whatever the mode was; a link is replaced by a file, and what it leads to stays as it was; a
# named pipe, and for root a device, becomes a regular file.
# Who is hurt: who saves a checkpoint that others serve (they cannot read it, also where they could read the one before); who
# saves through a link into a cache or onto a larger disk (the old tensors stay there); who as root in a container gives /dev/null
# for a file that is not wanted, and has none from then on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy==2.4.6 2>/dev/null
WORK=$work "$work/venv/bin/python" - <<'P'
import os
import stat
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

work = Path(os.environ["WORK"])
os.umask(0o022)
old, new = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
print(f"safetensors {safetensors.__version__}, umask 0022")


def mode(path):
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


for name, save in {"torch.save": torch.save, "save_file": save_file}.items():
    folder = work / name
    (folder / "cache").mkdir(parents=True)
    fresh, shared, blob, link, pipe = (folder / part for part in ("fresh", "shared", "cache/blob", "link", "pipe"))
    save(new, fresh)
    save(old, shared)
    shared.chmod(0o664)
    save(new, shared)
    save(old, blob)
    link.symlink_to(blob)
    before = blob.read_bytes()
    save(new, link)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    save(new, pipe)
    os.close(reader)
    found = (mode(fresh), mode(shared), link.is_symlink(), blob.read_bytes() != before, stat.S_ISFIFO(pipe.lstat().st_mode))
    print(f"{name}: a new file {found[0]}, one that was 0664 {found[1]}; a link stays {found[2]}, its file changes {found[3]}; "
          f"a pipe stays {found[4]}")
    as_open = ("0644", "0664", True, True, True)
    assert found == (as_open if name == "torch.save" else ("0600", "0600", False, False, False)), "the behaviour has changed"
assert torch.equal(load_file(work / "save_file" / "link")["a"], new["a"])
P
echo "still so"
