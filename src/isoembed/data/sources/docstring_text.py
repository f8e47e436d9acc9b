"""From the text of one docstring to prose: summary, body, parameters.  NumPy's, Google's and reST's conventions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: characters of body kept, in whole paragraphs: about 250 tokens, more than any default context
BODY_CHARACTERS = 1000

PARAMETER_SECTIONS = frozenset(
    {"parameters", "other parameters", "args", "arguments", "keyword args", "keyword arguments", "attributes"}
)
PROSE_SECTIONS = frozenset({"notes", "note", "description", "discussion", "explanation", "overview", "background"})
#: sections whose text is code, a reference or a fragment: passed over
OTHER_SECTIONS = frozenset(
    {
        *("returns", "return", "yields", "yield", "receives", "raises", "raise", "warns", "warnings", "warning"),
        *("see also", "references", "examples", "example", "example usage", "usage", "methods", "todo", "tip"),
        *("inputs", "outputs", "input", "output", "shape", "shapes", "call arguments", "input shape", "output shape"),
    }
)

_ADORNMENT = re.compile(r"([-=~^#*])\1{2,}\s*$")
_GOOGLE_HEADER = re.compile(r"([A-Z][A-Za-z ]{2,24}):{1,2}\s*$")
_REST_FIELD = re.compile(
    r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}([A-Za-z_]\w*)\s*:\s*(.*)"
)
_ANY_REST_FIELD = re.compile(r":[a-z]+(\s[^:]*)?:(\s|$)")
_NUMPY_NAME = re.compile(r"([A-Za-z_]\w*)(?:\s*:.*)?$")
_GOOGLE_NAME = re.compile(r"[`*]{0,2}([A-Za-z_]\w*)[`*]{0,2}\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s+(.*)$")
_INLINE_HEADER = re.compile(r"(args|arguments|parameters|returns?|yields?|raises?|examples?|see also|usage)\s*:", re.I)
_CODE_START = re.compile(
    r">>>|\.\. |\.\.\s*$|```|\$ |\+[-=]+|\||@|%|<[a-zA-Z/]|In \[|[-=]{3,}|:[a-z]+(\s[^:]*)?:(\s|$)"
)

#: the most frequent words of written English: prose has many, a signature or another language few
_COMMON = re.compile(
    r"\b(?:the|an?|of|to|in|is|and|for|be|are|as|by|on|with|or|that|this|its?|if|from|which|not|at|can|will|when|ha[sd]"
    r"|have|was|were|used|using|into|all|any|may|one|than|then|each|only|but|should|must|more|you|we|no|such|their|there"
    r"|other|them|they|do|does|also|been|these|those|between|where|how|both|so|same)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_ORDINARY = re.compile(r"[A-Za-z0-9 ,.;:'\"()-]")


@dataclass(frozen=True, slots=True)
class DocText:
    """A docstring's prose: its first paragraph, the paragraphs after it, and (name, description) of parameters."""

    summary: str
    body: str
    parameters: tuple[tuple[str, str], ...]


def read_docstring(docstring: str) -> DocText | None:
    """The prose of `docstring`; None where its first paragraph is none.  The body may be empty."""
    prose: list[str] = []
    parameters: list[tuple[str, str]] = []
    for header, lines in _sections(inspect.cleandoc(docstring).splitlines()):
        if header in PARAMETER_SECTIONS:
            parameters += _parameters(lines)
        elif header in PROSE_SECTIONS or not header:
            prose += [clean(paragraph) for paragraph in _paragraphs(lines)]
            parameters += _rest_parameters(lines)
    if not prose or not is_phrase(prose[0]):
        return None
    body: list[str] = []
    for paragraph in filter(is_prose, map(_whole_sentences, prose[1:])):
        if body and sum(map(len, body)) + len(paragraph) > BODY_CHARACTERS:
            break
        body.append(paragraph)
    kept = tuple((name, text) for name, text in parameters if is_prose(text))
    return DocText(prose[0], " ".join(body), kept)


def clean(text: str) -> str:
    """`text` without markup: roles, links, emphasis, quotes of code, tags, footnotes; white space collapsed."""
    text = re.sub(r":(?:[a-z]+:)?[a-z]+:`~?!?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text)  # :class:`~a.B`
    text = re.sub(r"`([^`<]+?)\s*<[^>]*>`_{0,2}", r"\1", text)  # `text <address>`_
    text = re.sub(r"!?\[([^\]]+)\]\([^)]*\)", r"\1", text)  # [text](address)
    text = re.sub(r"\s*\[[\w-]+\]_", "", text)  # [1]_
    text = re.sub(r"</?[a-zA-Z][^>]*>", " ", text)  # <Tip>
    text = re.sub(r"`+([^`]*)`+_{0,2}", r"\1", text)
    text = re.sub(r"\*\*([^*]+)\*\*|(?<!\w)\*([^*\s][^*]*)\*(?!\w)", lambda match: match[1] or match[2], text)
    text = re.sub(r"(?m)^\s*(?:[-*•+]|\d+[.)])\s+", "", text)  # bullets
    return " ".join(text.replace("::", ":").split())


def is_prose(text: str) -> bool:
    """Whether `text` reads as an English sentence or more: eight words, a sixth of them common, little punctuation."""
    words = len(_WORD.findall(text))
    return words >= 8 and 6 * len(_COMMON.findall(text)) >= words and _mostly_letters(text)


def is_phrase(text: str) -> bool:
    """Whether `text` can stand as a query: three to forty words, little punctuation."""
    return 3 <= len(_WORD.findall(text)) <= 40 and _mostly_letters(text)


def _mostly_letters(text: str) -> bool:
    letters = sum(map(len, _WORD.findall(text)))
    if "\\" in text:  # formulas
        return False
    return letters + text.count(" ") >= 0.85 * len(text) and len(_ORDINARY.findall(text)) >= 0.97 * len(text) - 1


def _whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence: what follows introduced code or a formula."""
    match = re.match(r".*[.!?][)\"']?(?=\s|$)", text)
    return match[0] if match else ""


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(header in lower case, lines); the header is empty before the first section."""
    header, held = "", list[str]()
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        google = _GOOGLE_HEADER.match(line)
        known = google[1].lower() if google else ""
        if line and not line[0].isspace() and _ADORNMENT.match(following) and not _ADORNMENT.match(line):
            yield header, held
            header, held = line.strip().lower().rstrip(":"), []
            index += 2
        elif known in PARAMETER_SECTIONS or known in PROSE_SECTIONS or known in OTHER_SECTIONS:
            yield header, held
            header, held = known, []
            index += 1
        else:
            held.append(line)
            index += 1
    yield header, held


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Blocks between blank lines that start at the margin and are no code, directive, table or field."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
            continue
        at_margin = block and not block[0][0].isspace() and not _INLINE_HEADER.match(block[0])
        if at_margin and not any(_CODE_START.match(row.lstrip()) for row in block):
            yield "\n".join(block)
        block = []


def _rest_parameters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """`:param name: description`, with its continuation lines."""
    name, words = "", list[str]()
    for line in [*lines, ":end:"]:
        match = _REST_FIELD.match(line)
        if match or _ANY_REST_FIELD.match(line) or not line.strip():
            if name:
                yield name, clean("\n".join(words))
            name, words = (match[1], [match[2]]) if match else ("", [])
        elif name:
            words.append(line.strip())


def _parameters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """NumPy's `name : type` over an indented description, or Google's `name (type): description`."""
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    name, words = "", list[str]()
    for line in [*lines, " " * margin + "end : end"]:
        text = line[margin:]
        if text and not text[0].isspace():
            if name:
                yield name, clean("\n".join(words))
            google, numpy = _GOOGLE_NAME.match(text), _NUMPY_NAME.match(text)
            if google and margin:
                name, words = google[1], [google[2]]
                if _INLINE_HEADER.match(text):
                    name = ""
            else:
                name, words = (numpy[1] if numpy else ""), []
        elif _CODE_START.match(text.lstrip()):  # a directive or an example ends the description
            if name:
                yield name, clean("\n".join(words))
            name = ""
        elif name and text.strip():
            words.append(text.strip())
