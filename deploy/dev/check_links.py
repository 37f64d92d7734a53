#!/usr/bin/env python3
"""check_links.py: every relative link in the repository's Markdown leads to a file, and
every anchor to a heading of it. Links to other machines are not followed."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def prose(path):
    """A file without what is code, where brackets are no links."""
    text = FENCE.sub("", path.read_text())
    return re.sub(r"`[^`\n]*`", lambda code: code.group().replace("](", "]\0("), text)


def anchor(heading):
    """As GitHub makes it of a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def wrong(path):
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"{target}: no such file"
        elif fragment and file.suffix == ".md":
            if fragment not in map(anchor, HEADING.findall(prose(file))):
                yield f"{target}: no such heading"


def main():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split()]
    found = [f"{file.relative_to(ROOT)}: {link}" for file in files for link in wrong(file)]
    print("\n".join(found) or f"{len(files)} files: every link leads somewhere")
    return 1 if found or not files else 0


sys.exit(main())
