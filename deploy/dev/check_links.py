#!/usr/bin/env python3
"""check_links.py: what the repository's Markdown points at is there. Every relative link
leads to a file, and every anchor to a heading of it. Links to other machines are not
followed. In `code`, a path below a directory of the repository is one that exists, and
`a.rs` the end of one; each part of `a::b`, and each long name of a test, stands in the
code, that of `module::b` in the module's, and so do metrics. ARCHITECTURE.md has each
module."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:src|tests|benches|proto|deploy|docs)/[\w./-]*")
SOURCE = re.compile(r"[\w/-]+\.rs")
ITEM = re.compile(r"[A-Za-z_]\w*(?:::[A-Za-z_]\w*)+")
# Names of tests are sentences, and fields with as many words are in the code as well.
SENTENCE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+){4,}")
METRIC = re.compile(r"chat_counters_(\w*[a-z])(?:\{[^}]*\})?")
# What the library puts behind the name under which a metric is registered.
SUFFIX = re.compile(r"_(?:total|seconds|bytes|info)$")
# What was true of earlier versions need not be there any more.
HISTORY = "CHANGELOG.md"
MAP = "ARCHITECTURE.md"


def listed(*patterns):
    command = ["git", "ls-files", *patterns]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def prose(path):
    """A file without what is code, where brackets are no links."""
    text = FENCE.sub("", path.read_text())
    return re.sub(r"`[^`\n]*`", lambda code: code.group().replace("](", "]\0("), text)


def anchor(heading):
    """As GitHub makes it of a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def wrong_links(path):
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


class Code:
    """What names in the documents are looked up in."""

    def __init__(self):
        self.files = listed()
        self.words = set()
        # The words of each module of the library; a module is named by its file.
        self.modules = {}
        for name in listed("*.rs", "*.proto", "*.toml"):
            parts = pathlib.Path(name).with_suffix("").parts
            words = {*re.findall(r"\w+", (ROOT / name).read_text()), *parts}
            self.words |= words
            if parts[0] == "src" and name.endswith(".rs"):
                self.modules.setdefault(parts[1], set()).update(words)

    def wrong(self, span):
        """What is wrong with a span of code, if anything."""
        if PATH.fullmatch(span):
            return None if (ROOT / span).exists() else "no such path"
        if SOURCE.fullmatch(span):
            ends = any(file == span or file.endswith("/" + span) for file in self.files)
            return None if ends else "no such file"
        if ITEM.fullmatch(span):
            module, *parts = span.split("::")
            if module not in self.modules:
                parts.insert(0, module)
            words = self.modules.get(module, self.words)
            missing = [part for part in parts if part not in words]
            return f"no {missing[0]} in the code" if missing else None
        metric = METRIC.fullmatch(span)
        if metric:
            name = metric.group(1)
            names = {name, SUFFIX.sub("", name)}
            # A group of metrics has a first word of its own.
            names |= {name.partition("_")[2] for name in names}
            return None if names & self.words else "no such metric"
        if SENTENCE.fullmatch(span):
            return None if span in self.words else "not in the code"
        return None


def wrong_names(path, code):
    for span in SPAN.findall(FENCE.sub("", path.read_text())):
        wrong = code.wrong(span)
        if wrong:
            yield f"`{span}`: {wrong}"


def unmapped(code):
    """Modules of the library that the map does not have."""
    named = set(SPAN.findall(FENCE.sub("", (ROOT / MAP).read_text())))
    for module in sorted(code.modules.keys() - named - {"lib", "main"}):
        yield f"{MAP}: no module `{module}`, which src/ has"


def main():
    files = [ROOT / name for name in listed("*.md")]
    code = Code()
    found = list(unmapped(code))
    for file in files:
        found += [f"{file.relative_to(ROOT)}: {wrong}" for wrong in wrong_links(file)]
        if file.name != HISTORY:
            found += [f"{file.relative_to(ROOT)}: {wrong}" for wrong in wrong_names(file, code)]
    print("\n".join(found) or f"{len(files)} files: every link leads somewhere, and every name is there")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
