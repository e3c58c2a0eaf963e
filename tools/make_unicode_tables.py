#!/usr/bin/env python3
"""Writes src/refrain/text/chat/unicode_tables.inc: what Python's str methods know of characters.

usage: make_unicode_tables.py [--check]

The tables are those of this Python's unicodedata. Of changes of case they have those of one character
to several; utf8proc has the others. (Its properties are of a later Unicode.) `--check` fails when
the file is another.
"""
import pathlib
import sys
import unicodedata

OUT = pathlib.Path(__file__).resolve().parent.parent / "src/refrain/text/chat/unicode_tables.inc"
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def cased(c):
    s = chr(c)
    return s.isupper() or s.islower() or unicodedata.category(s) == "Lt"


def case_ignorable(c):
    """As the rule of the final sigma sees it: what it looks past."""
    s = chr(c)
    if cased(c):
        return (s + "\u03a3").lower()[-1] == "\u03c3"
    return ("A" + s + "\u03a3").lower()[-1] == "\u03c2"


PROPERTIES = {
    "Printable": lambda c: chr(c).isprintable(),
    "Alpha": lambda c: chr(c).isalpha(),
    "Decimal": lambda c: chr(c).isdecimal(),
    "Digit": lambda c: chr(c).isdigit(),
    "Numeric": lambda c: chr(c).isnumeric(),
    "Upper": lambda c: chr(c).isupper(),
    "Lower": lambda c: chr(c).islower(),
    "Cased": cased,
    "CaseIgnorable": case_ignorable,
}


def ranges(holds):
    found = []
    for c in SCALARS:
        if not holds(c):
            continue
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def lines(items, width=96):
    line = " "
    for item in items:
        if len(line) + len(item) + 2 > width:
            yield line
            line = " "
        line += f" {item},"
    yield line


def tables():
    out = ["// Made by tools/make_unicode_tables.py from Python's unicodedata "
           f"{unicodedata.unidata_version}."]
    for name, holds in PROPERTIES.items():
        out.append(f"constexpr Range k{name}[] = {{")
        out += lines(f"{{{a:#x}, {b:#x}}}" for a, b in ranges(holds))
        out.append("};")
    for name, change in {"ToUpper": str.upper, "ToLower": str.lower, "ToTitle": str.title}.items():
        out.append(f"constexpr Expansion k{name}More[] = {{")
        out += lines(f"{{{c:#x}, {{{', '.join(f'{ord(x):#x}' for x in change(chr(c)))}}}}}"
                     for c in SCALARS if len(change(chr(c))) != 1)
        out.append("};")
    return "\n".join(out) + "\n"


def main():
    text = tables()
    if "--check" in sys.argv[1:]:
        same = OUT.read_text() == text
        print("the same" if same else f"{OUT} is not what this makes")
        return not same
    OUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
