"""A comment `# ringgraph: ignore[CODE, ...]` accepts the findings that point at its line; one that accepts none is told.

Only rules' findings can be accepted: with any other, no command takes the graph.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from runner.base.errors import Diagnostic, Mark, did_you_mean
from runner.language.graph import Text
from runner.language.library import with_source_lines
from runner.lint.codes import RULES
from runner.lint.rules import all_rules

OWN_CODE = "G331"
ACCEPTABLE = frozenset({OWN_CODE, *(rule.about.code for rule in all_rules())})
"""Codes of findings that leave a graph which runs."""

_DIRECTIVE = re.compile(r"#\s*ringgraph\s*(:\s*|(?=ignore\b\s*[\[(]))", re.IGNORECASE)
"""What begins a directive; without a colon it is none, but meant as one if codes follow."""
_IGNORE = re.compile(r"ignore\[([^\[\]]*)\]")
_MORE = re.compile(r"\s*(\[|.*?(\b(ringgraph\s*:\s*)?ignore\s*\[))", re.IGNORECASE)
"""Behind a directive, what somebody meant as another one; any other text is for people."""
_FORM = "write '# ringgraph: ignore[CODE]', with several codes separated by commas"

Place = tuple[str, int]
"""A file and a line."""


class Comments:
    """What the comments of graph files accept: those of `given` files, which are judged, and of files that these use."""

    def __init__(self, given: Sequence[Sequence[Text]], used: Sequence[Sequence[Text]], lines: Mapping[str, tuple[str, ...]]):
        self.lines = lines
        self.codes: list[tuple[Mark, str]] = []
        self.malformed: list[Diagnostic] = []
        self.accepted: set[tuple[Place, str]] = set()
        for comment in (comment for comments in given for comment in comments):
            self.codes += self._read(comment, self.malformed)
        for mark, code in [*self.codes, *(pair for comments in used for comment in comments for pair in self._read(comment, []))]:
            if code in ACCEPTABLE:
                self.accepted.add(((mark.file, mark.line), code))

    def judge(self, findings: Collection[Diagnostic], judged: Mapping[str, Collection[str]]) -> Iterator[Diagnostic]:
        """Those findings that no comment accepts, and what is wrong with the comments.

        `judged` are, by file, the codes that were looked for: of the others, nobody can say that they accept nothing.
        """
        told = with_source_lines([*self.malformed, *self._without_effect(findings, judged)], self.lines)
        needless = self._needless(told)
        yield from (finding for finding in (*findings, *told) if not self._is_accepted(finding))
        yield from with_source_lines(needless, self.lines)

    def _is_accepted(self, finding: Diagnostic) -> bool:
        return finding.mark is not None and ((finding.mark.file, finding.mark.line), finding.code) in self.accepted

    def _read(self, comment: Text, problems: list[Diagnostic]) -> Iterator[tuple[Mark, str]]:
        """The codes of a comment's first directive, and the place of each; `problems` takes what has no effect."""
        starts = list(_DIRECTIVE.finditer(comment.value))
        if not starts:
            return
        at, found = starts[0].end(), _IGNORE.match(comment.value, starts[0].end())
        found = found if starts[0][1] else None
        seconds = [start.start() for start in starts[1:]]
        more = _MORE.match(comment.value, found.end(), seconds[0] if seconds else len(comment.value)) if found else None
        for second in ([more.start(2 if more[2] else 1)] if more else []) + seconds:
            hint = "list all codes in the first: ignore[CODE, CODE]"
            problems.append(_told("a second directive on one line has no effect", comment.mark, second, hint))
        codes = list(re.finditer(r"[^,\s]+", found[1])) if found else []
        if not codes:
            what = comment.value[at:].split("#")[0].strip() or "nothing"
            message = f"the directive names no code: '{what}'" if what.startswith("ignore") else f"'{what}' is no directive"
            message = message if starts[0][1] else "a directive has a colon behind 'ringgraph'"
            problems.append(_told(message, comment.mark, starts[0].start(), _FORM))
        seen: set[str] = set()
        for code in codes:
            place = at + len("ignore[") + code.start()
            if code[0] in seen:
                problems.append(_told(f"'{code[0]}' is named twice", comment.mark, place))
            elif code[0] not in RULES:
                hint = did_you_mean(code[0].upper(), RULES) if code[0].upper() not in RULES else f"write {code[0].upper()}"
                problems.append(_told(f"no lint rule is called '{code[0]}'", comment.mark, place, hint))
            else:
                yield comment.mark.moved(place), code[0]
            seen.add(code[0])

    def _without_effect(self, findings: Iterable[Diagnostic], judged: Mapping[str, Collection[str]]) -> Iterator[Diagnostic]:
        """Codes that accept nothing of `findings`, or that cannot be accepted."""
        found = {((f.mark.file, f.mark.line), f.code) for f in findings if f.mark}
        for mark, code in self.codes:
            if code not in ACCEPTABLE:
                message = f"{code} cannot be accepted: no command takes a graph with such a finding"
                yield _told(message, mark, 0, "mend the finding, and remove the code")
            elif code in judged.get(mark.file, ()) and code != OWN_CODE and ((mark.file, mark.line), code) not in found:
                hint = f"remove it, or add {OWN_CODE} to it if another configuration needs it"
                yield _told(f"nothing on this line is {code}, under this configuration", mark, 0, hint)

    def _needless(self, told: Sequence[Diagnostic]) -> list[Diagnostic]:
        """Where the own code is accepted, and alone at that: it has nothing to accept under any configuration."""
        places = {(f.mark.file, f.mark.line) for f in told if f.mark}
        others = {(mark.file, mark.line) for mark, code in self.codes if code != OWN_CODE}
        own = [mark for mark, code in self.codes if code == OWN_CODE]
        alone = [mark for mark in own if (mark.file, mark.line) not in places | others]
        return [_told(f"nothing on this line is {OWN_CODE}", mark, 0, "remove it") for mark in alone]


def _told(message: str, mark: Mark, columns: int, hint: str | None = None) -> Diagnostic:
    return Diagnostic(OWN_CODE, message, mark.moved(columns), RULES[OWN_CODE].severity, hint)
