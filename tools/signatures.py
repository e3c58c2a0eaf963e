"""Finds the functions that C++ and Python code declares, and counts their arguments, for
check_layers.py."""
import ast
import re

# A name and its parenthesis, at the end of a line's words: a declaration, a definition or a call.
NAMED = re.compile(r"(?:^|\n|[;{}>:&*])([ \t]*(?:[\w:<>,&*\[\]]+[ \t\n]+)*[&*]*)([\w:~]+)\s*\(")
# What follows the parenthesis of a declaration or of a definition.
FOLLOWS = re.compile(r"\s*(const\b|noexcept\b|override\b|HWY_ATTR\b|\{|;|=\s*0|->|:)")
STATEMENT = re.compile(r"\b(return|new|throw|else|if|for|while|switch|co_return)\b")
QUALIFIER = re.compile(r"(?<=[&*]) (const|HWY_RESTRICT)(?=[&*])|\b(const|HWY_RESTRICT)\b\s*")
TYPED = re.compile(r"[\w:]+(<.*>)?[&*]*\s+[&*]*\w+(\[\w*\])*(\s*=.*)?$", re.S)
UNNAMED = re.compile(r"[\w:]+(<.*>)?[&*]*(\s*=.*)?$", re.S)


def split(text: str) -> list[str]:
    """At the commas outside all brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


def cpp(code: str) -> list[tuple[int, str, int]]:
    """(line, name, number of arguments) of every function that is declared or defined."""
    code = re.sub(r"//[^\n]*", "", code)
    code = re.sub(r'"(\\.|[^"\\\n])*"', '""', code)
    found = []
    for m in NAMED.finditer(code):
        depth, end = 1, m.end()
        while end < len(code) and depth:
            depth += (code[end] == "(") - (code[end] == ")")
            end += 1
        given = [QUALIFIER.sub("", a) for a in split(code[m.end():end - 1])]
        if (STATEMENT.search(m[1]) or STATEMENT.fullmatch(m[2]) or
                not FOLLOWS.match(code, end) or
                not all(TYPED.match(a) or UNNAMED.match(a) for a in given) or
                not any(TYPED.match(a) for a in given)):
            continue
        found.append((code[:m.start(2)].count("\n") + 1, m[2], len(given)))
    return found


def python(code: str) -> list[tuple[int, str, int]]:
    """The same of a Python file; what is given by keyword only does not count, nor does self."""
    return [(f.lineno, f.name, len([a for a in f.args.args if a.arg != "self"]))
            for f in ast.walk(ast.parse(code)) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]
