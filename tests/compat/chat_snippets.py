"""Snippets of Jinja, and templates of random parts, for chat_compat.py."""

VARIABLES = {
    "n": 7, "x": -2.5, "yes": True, "no": False, "nothing": None, "empty": "", "word": "héLLo wörld ß",
    "lines": "one\n two\r\n\n three\x0bfour\u2028five", "spaced": " \t\u3000in\u00a0between\n ",
    "items_": [3, 1, 2, 3], "mixed": [1, "a", None, 2.5, [1], {"k": "v"}], "names": ["bo", "Al", "cy", "al"],
    "d": {"b": 1, "a": "two", "C": [1, 2], "items": "own"}, "nested": {"a": {"b": [{"c": "deep"}]}},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25},
               {"name": "Cid", "age": 30, "tags": []}],
    "big": 2**62, "sigma": "ΑΣ ΣΑΣ. Σ ΟΔΟΣ", "title": "they're bill's friends-from (the UK) ǆ ŉ", "numeral": "٣٤",
}

SNIPPETS = r"""
{{ n }}{{ x }}{{ yes }}{{ no }}{{ nothing }}{{ empty }}{{ word }}{{ missing }}
{{ mixed }}|{{ d }}|{{ nested }}|{{ (1,) }}|{{ () }}|{{ (1, 'a') }}|{{ [] }}|{{ {} }}
{{ [word, "it's", '"', "it's \"", "\\", "\n\t\r\x00\x1f\x7f\x80\xad\u200b\U0001f600"] }}
{{ [1.0, 0.1, 1e16, 1e15, 123456789012345678.0, 1e-4, 1e-5, -0.0, 1.5e300, 5e-324, 1/3] }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ -n }} {{ +n }} {{ --n }} {{ not n }} {{ not not n }} {{ +yes }} {{ -yes }}
{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 0.0 // 1 }} {{ -0.0 % 3 }} {{ 1e308 * 10 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 0 ** -1 }}
{{ yes + yes }} {{ yes * 3 }} {{ 1 == yes }} {{ 0 == no }} {{ 1.0 == 1 }} {{ '1' == 1 }} {{ nothing == no }}
{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ 'ab' * 0 }} {{ 'ab' * -1 }} {{ [1] + [2] }} {{ [1] * 2 }} {{ (1,) + (2,) }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ 'a' * 'b' }}
{{ 'a' - 'b' }}
{{ nothing + 1 }}
{{ missing + 'a' }}
{{ 'a' + missing }}
{{ missing.attribute }}
{{ missing['x'] }}
{{ missing() }}
{{ missing[1:] }}
{{ missing < 1 }}
{{ -missing }}
{{ missing == missing2 }} {{ missing is undefined }} {{ missing | length }} {{ missing | list }} {{ 'a' in missing }}
{{ 'a' ~ 1 ~ none ~ true ~ [1] ~ missing ~ 1.5 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 < 2 == 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ 1 < 1.5 }} {{ yes < 2 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ d < d }}
{{ 1 in [1, 2] }} {{ 1 not in [1, 2] }} {{ 'a' in 'cat' }} {{ 'a' in d }} {{ 'z' not in d }} {{ 1.0 in [1] }} {{ '' in '' }} {{ n in (7, 8) }}
{{ 1 in 'a' }}
{{ 1 in 5 }}
{{ 'a' in none }}
{{ [1] in d }}
{{ 1 and 2 }} {{ 0 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ 1 or missing.x }} {{ not '' and not 0 }} {{ missing and 1 }}
{{ 'a' if yes else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }} {{ ('a' if no) is defined }}
{{ ('a' if no) + 'x' }}
{{ "a" "b" 'c' }} {{ "a" 'b' ~ 'c' }} {{ 'é\u00e9\x41\101\n\\\'\"\a' }} {{ '\q\é\
x' }}
{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1e3 }} {{ 1.5e-3 }} {{ 1_0.2_5 }} {{ 00 }} {{ 1E2 }}
{{ 5.upper }}
{{ 1.2.3 }}
{{ items_.0 }} {{ items_[-1] }} {{ items_[9] }} {{ items_['x'] }} {{ items_[1.0] }} {{ items_[yes] }} {{ word[0] }}{{ word[1] }}{{ word[-1] }}{{ word[99] }}
{{ items_[9].x }}
{{ d.a }} {{ d['a'] }}
{{ d['items'] }} {{ d.items() | list }} {{ d.keys() }} {{ d.values() }} {{ d.items() }} {{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d['get']('b') }}
{{ d.missing }}|{{ d['missing'] }}|{{ d[1] }}|{{ nested.a.b[0].c }}|{{ nested.a.q }}
{{ nested.q.b }}
{{ none.x }} {{ none['x'] }} {{ n.x }} {{ n[0] }} {{ word.nope }} {{ d[[1]] }}
{{ d.pop('a') }}
{{ d.update({}) }}
{{ items_.append(1) }}
{{ items_.append }}
{{ word.__class__ }} {{ d.__class__ is defined }} {{ d['__class__'] }} {{ word._x }}
{{ word.__class__.__mro__ }}
{{ word[1:3] }}|{{ word[:-1] }}|{{ word[::-1] }}|{{ word[::2] }}|{{ word[5:1:-2] }}|{{ word[-3:] }}|{{ word[10:100] }}|{{ word[3:1] }}
{{ items_[1:] }} {{ items_[::-1] }} {{ items_[:2] }} {{ items_[-2:] }} {{ items_[5:] }} {{ items_[1:3][0] }} {{ (1,2,3)[1:] }} {{ items_[::-2] }} {{ items_[-9:9:2] }}
{{ items_[none:2] }} {{ items_[yes:] }} {{ word[none:none:none] }}
{{ items_[::0] }}
{{ items_['a':] }}
{{ d[1:] }}
{{ range(3) }} {{ range(3) | list }} {{ range(1, 10, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(3)[1] }} {{ range(10)[2:5] | list }} {{ 3 in range(5) }} {{ range(0) | length }}
{{ range(100001) }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ range() }}
{% for i in range(100000) %}{% endfor %}ok
{{ [1, 2, ] }} {{ {'a': 1, } }} {{ {'a': 1, 'a': 2} }} {{ {1: 'x', true: 'y', 1.0: 'z'} }} {{ {(1, 2): 3}[(1, 2)] }} {{ {none: 1} }}
{{ {[1]: 2} }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=3) }} {{ dict() }}
{{ namespace(a=1).a }} {{ namespace({'q': 2}).q }} {{ namespace(a=1) }} {{ namespace().zzz }} {{ namespace(a=1)['a'] }}
{{ namespace(_a=1) }}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set d.x = 1 %}
{% set n.x = 1 %}
{% set ns = namespace(c=0) %}{% for i in items_ %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}
{% set ns = namespace(a=1) %}{% set ns.a, b = 2, 3 %}{{ ns.a }}{{ b }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (b, a) %}{{ a }}{{ b }}{% set a = 1, 2 %}{{ a }}
{% set a, b = [1] %}
{% set a, b = [1, 2, 3] %}
{% set a, b = 5 %}
{% set a, b = 'xy' %}{{ a }}{{ b }}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% for i in [1, 2] %}{{ y }}{% set y = i %}{{ y }}{% endfor %}{{ y }}
{% for i in [1, 2] %}{{ n }}{% set n = 0 %}{{ n }}{% endfor %}{{ n }}
{% for i in [1] %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}
{% for i in [1] %}{% if no %}{% set n = 3 %}{% endif %}{{ n }}{% endfor %}
{% if no %}{% set n = 3 %}{% endif %}{{ n }}
{% if yes %}{% set fresh = 3 %}{% endif %}{{ fresh }}
{% if no %}{% set fresh = 3 %}{% elif yes %}{% set other = 4 %}{% else %}{% set third = 1 %}{% endif %}{{ fresh }}{{ other }}{{ third }}
{% set n = n + 1 %}{{ n }}{% set n %}{{ n }}!{% endset %}{{ n }}
{% set q %}{{ q }}{% endset %}[{{ q }}]
{% set q | upper %}a{{ word }}{% endset %}{{ q }}
{% set q | replace('a', 'b') | upper %}aa{% set inner = 1 %}{{ inner }}{% endset %}{{ q }}{{ inner }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set a = 2 %}{{ a }}{% endwith %}{{ a }}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}
{% with a = 1, b = a %}{{ b }}{% endwith %}
{% filter upper %}abc {{ word }}{% endfilter %}
{% filter replace('a', n) | upper %}abca{% endfilter %}
{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=1, a=2) }}{{ m(1, c=5) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}{{ m() }}
{% macro m(a, a2=b, b=1) %}{{ a2 }}{% endmacro %}[{{ m(1) }}]
{% macro m() %}{{ late }}{% endmacro %}{% set late = 5 %}{{ m() }}
{% macro m() %}{{ n }}{% set n = 9 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}
{% macro f(i) %}{{ i }}{% if i > 0 %},{{ f(i - 1) }}{% endif %}{% endmacro %}{{ f(4) }}
{% macro m() %}x{% endmacro %}{{ m }}{{ m.name }}{{ m() | upper }}{{ m() ~ m() }}{{ m is callable }}
{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% macro outer(x) %}{% macro inner(y) %}{{ x }}{{ y }}{% endmacro %}{{ inner(2) }}{{ inner(3) }}{% endmacro %}{{ outer(1) }}
{% macro c() %}<{{ caller() }}>{% endmacro %}{% call c() %}body {{ n }}{% endcall %}
{% macro c() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b=5) c() %}{{ a }}{{ b }}{% endcall %}
{% macro c() %}<{{ caller() }}>{% endmacro %}{{ c() }}
{% macro c(caller=none) %}{{ caller is none }}{% endmacro %}{{ c() }}{% call c() %}x{% endcall %}
{% macro c(caller) %}{{ caller() }}{% endmacro %}{{ c() }}
{% macro c() %}{% for i in [1,2] %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) c() %}[{{ i }}{{ n }}]{% endcall %}
{% for x in items_ %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for x in items_ %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 2) }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}
{% for x in items_ %}{{ loop }}{% endfor %}
{% for x in items_ if x > 1 %}{{ loop.index }}{{ loop.last }}{{ loop.length }}:{{ x }};{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in items_ if not ns.stop %}{{ x }}{% set ns.stop = true %}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in items_ if not ns.stop %}{{ x }}{{ loop.last }}{% set ns.stop = true %}{% endfor %}
{% for x in items_ if x > 1 %}{% generation %}{{ x }}{{ loop.last }}{% endgeneration %}{% endfor %}
{% macro m(l) %}{% set a = 1 %}{% set b = 2 %}{{ l.length }}{{ l.nextitem }}{{ l.last }};{% endmacro %}{% for x in items_ if x > 1 %}{{ m(loop) }}{% endfor %}
{% macro m(l) %}{{ caller(l) }}{% endmacro %}{% for x in items_ if x > 1 %}{% call(l) m(loop) %}{{ l.last }}{{ x }}{{ loop.nextitem }}{% endcall %}{% endfor %}
{% for x in [] %}{{ x }}{% else %}none{% endfor %}{% for x in [1] %}{{ x }}{% else %}none{% endfor %}
{% for x in [1, 2] %}{% continue %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% break %}{% else %}else{% endfor %}
{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% for y in [1, 2] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in [1, 2] %}{% set q %}a{% if x == 1 %}{% continue %}{% endif %}b{% endset %}{{ q }}{{ x }}{% endfor %}
{% break %}
{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for x in [1] %}a{% else %}{% break %}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'añb' %}{{ c }}.{% endfor %}
{% for a, b in [[1, 2], 'xy', (3, 4)] %}{{ a }}{{ b }};{% endfor %}{% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a in 5 %}{% endfor %}
{% for a in none %}{% endfor %}
{% for a in missing %}x{% else %}nothing{% endfor %}
{% for loop in [1] %}{% endfor %}
{% for x in [1] %}{% set loop = 1 %}{% endfor %}
{% for x in items_ | select('gt', 1) %}{{ loop.length }}{{ x }}{{ loop.last }}{% endfor %}
{% set g = items_ | select('gt', 1) %}{{ g | list }}{{ g | list }}{{ g is iterable }}{{ g is sequence }}{% if g %}true{% endif %}
{% set g = items_ | map('string') %}{{ g | first }}{{ g | join(',') }}
{% set g = [1, 2, 'a', 4] | map('abs') %}{{ g | first }}
{{ [1, 2, 'a', 4] | map('abs') | list }}
{{ items_ | select('gt', 1) | length }}
{{ people | selectattr('name') | map(attribute='name') | join(', ') }}|{{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }}|{{ people | rejectattr('tags') | map(attribute='name') | list }}
{{ people | selectattr('tags', 'defined') | list | length }} {{ people | map(attribute='tags.0', default='-') | list }} {{ people | map(attribute='age') | sum }} {{ people | sum(attribute='age', start=1) }}
{{ people | selectattr('age', 'in', [25]) | list }} {{ people | selectattr('age', '>', 26) | list | count }} {{ items_ | reject('odd') | list }} {{ items_ | select | list }} {{ [0, 1] | reject | list }}
{{ people | map('upper') | list }} {{ names | map('upper') | join }} {{ names | map('replace', 'b', 'd') | list }} {{ items_ | map('default', 5) | list }}
{{ people | map() | list }}
{{ people | selectattr() | list }}
{{ people | selectattr('name', 'nope') | list }}
{{ items_ | map('nope') | list }}
{{ items_ | nope }}
{{ items_ is nope }}
{% if no %}{{ items_ | nope }}{% endif %}fine
{{ items_ | sort }} {{ names | sort }} {{ names | sort(case_sensitive=true) }} {{ items_ | sort(reverse=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name', reverse=true) | map(attribute='name') | list }}
{{ mixed | sort }}
{{ items_ | unique | list }} {{ names | unique | list }} {{ names | unique(true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}
{{ items_ | min }} {{ items_ | max }} {{ names | min }} {{ [] | max }} {{ people | max(attribute='age') }}
{{ d | dictsort }} {{ d | dictsort(true) }} {{ d | dictsort(reverse=true) }} {{ {'a': 2, 'b': 1} | dictsort(by='value') }}
{{ d | dictsort(by='z') }}
{{ d | items | list }} {{ missing | items | list }} {{ d | list }} {{ d | length }} {{ d | first }} {{ d | last }} {{ d.items() | last }} {{ d.keys() | first }} {{ d.values() | list }}
{{ 5 | items | list }}
{{ items_ | first }} {{ items_ | last }} {{ [] | first }} {{ [] | last }} {{ word | first }} {{ word | last }} {{ range(3) | last }} {{ missing | last }}
{{ items_ | select | last }}
{{ 5 | first }}
{{ items_ | reverse | list }} {{ word | reverse }} {{ d | reverse | list }} {{ items_ | batch(3) | list }} {{ items_ | batch(3, 'x') | list }} {{ items_ | slice(3) | list }} {{ items_ | slice(3, 0) | list }}
{{ 5 | reverse }}
{{ items_ | join }} {{ items_ | join('-') }} {{ mixed | join(', ') }} {{ [] | join(',') }} {{ 'abc' | join('-') }} {{ people | join('/', attribute='name') }} {{ items_ | join(1) }}
{{ items_ | length }} {{ word | length }} {{ '😀' | length }} {{ 5 | string | length }}
{{ 5 | length }}
{{ none | length }}
{{ 'abc' | list }} {{ 5 | list }}
{{ word | upper }} {{ word | lower }} {{ word | title }} {{ word | capitalize }} {{ title | title }} {{ title.title() }} {{ title | upper }} {{ sigma | lower }} {{ sigma.lower() }} {{ sigma.title() }} {{ sigma | title }} {{ sigma.capitalize() }} {{ word.swapcase() }}
{{ 5 | upper }} {{ none | lower }} {{ [1, 'a'] | upper }} {{ missing | upper }} {{ missing | trim }}|
[{{ spaced | trim }}] [{{ 'xxaxx' | trim('x') }}] [{{ spaced.strip() }}] [{{ spaced.lstrip() }}] [{{ spaced.rstrip() }}] [{{ 'ébé'.strip('é') }}] [{{ 'abc'.strip('') }}] [{{ 5 | trim }}]
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ lines.split() }} {{ lines.split('\n') }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ '  a  b  '.split(none, 1) }} {{ 'a b'.split(sep=' ') }}
{{ 'a,b,,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ' a b  c '.rsplit() }} {{ 'aXbXc'.split('X', maxsplit=1) }} {{ 'abc'.partition('b') }} {{ 'abc'.partition('z') }} {{ 'abcb'.rpartition('b') }} {{ 'abc'.rpartition('z') }}
{{ 'a'.split('') }}
{{ 'abc'.startswith('a') }} {{ 'abc'.startswith(('x', 'ab')) }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.startswith('') }} {{ 'abc'.startswith('', 9) }} {{ 'é'.startswith('é') }} {{ 'abc'.startswith('c', -1) }}
{{ 'abc'.startswith(1) }}
{{ 'abc'.startswith(['a']) }}
{{ 'äbcb'.find('b') }} {{ 'äbcb'.rfind('b') }} {{ 'abc'.find('z') }} {{ 'abc'.index('c') }} {{ 'abcb'.count('b') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'abcabc'.find('c', 3) }} {{ 'abcabc'.find('c', -2) }} {{ 'abc'.find('', 3) }} {{ 'abc'.find('', 4) }}
{{ 'abc'.index('z') }}
{{ 'aaa'.replace('a', 'b', 2) }} {{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 1) }} {{ 'añ'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ 5 | replace(5, 6) }} {{ 'abc'.replace('abc', '') }} {{ 'aaa'.replace('a', '', 0) }}
{{ ', '.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join(d) }} {{ 'x'.join([]) }}
{{ ','.join([1]) }}
{{ 'abc'.isalpha() }} {{ 'ab1'.isalnum() }} {{ '12'.isdigit() }} {{ numeral.isdigit() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }} {{ ' '.isspace() }} {{ ''.isalpha() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ 'A1'.isupper() }} {{ '1'.isupper() }} {{ 'Ab'.islower() }} {{ 'é'.isascii() }} {{ '²'.isdecimal() }}
{{ 'ab'.center(7) }}| {{ 'abc'.center(6, '*') }} {{ 'a' | center(4) }}| {{ 'ab'.ljust(4, '.') }} {{ 'ab'.rjust(4, '.') }} {{ '-5'.zfill(5) }} {{ '5'.zfill(3) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('bc') }} {{ 'abc'.center(2) }} {{ 'abcd'.center(7) }}|
{{ items_.index(1) }} {{ items_.count(3) }} {{ (1, 2).index(2) }} {{ items_.copy() }}
{{ items_.index(9) }}
{{ missing | default('x') }} {{ missing | d }} {{ none | default('x') }} {{ none | default('x', true) }} {{ '' | default('x', boolean=true) }} {{ 0 | d(5, true) }} {{ d.zz | default([]) }} {{ missing.x | default('y') }}
{{ d.zz.y | default('y') }}
{{ '42' | int }} {{ ' 42 ' | int }} {{ '4.7' | int }} {{ 4.7 | int }} {{ -4.7 | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ '0x1f' | int(base=16) }} {{ '1f' | int(0, 16) }} {{ '1_000' | int }} {{ '1__0' | int }} {{ none | int }} {{ [] | int(1) }} {{ yes | int }} {{ numeral | int }} {{ '0b11' | int(base=0) }} {{ 'inf' | int }} {{ '1e3' | int }} {{ '+5' | int }} {{ '- 5' | int }}
{{ missing | int }}
{{ '4.7' | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ 3 | float }} {{ ' 1e3 ' | float }} {{ 'nan' | float }} {{ '-inf' | float }} {{ '1_0.5' | float }} {{ none | float }} {{ '.5' | float }} {{ '5.' | float }} {{ '1e400' | float }} {{ 'nan(1)' | float }} {{ '--1' | float }} {{ '0x1' | float }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 42.55 | round(1, 'floor') }} {{ 42.55 | round(1, 'ceil') }} {{ 5 | round }} {{ 15 | round(-1) }} {{ 25 | round(-1) }} {{ -25 | round(-1) }} {{ 1234.5 | round(-2) }} {{ 2.5 | round(0) | int }} {{ 1.5 | round(method='ceil') }} {{ yes | round }} {{ 5 | round(1, 'ceil') }}
{{ 5 | round(0, 'q') }}
{{ -5 | abs }} {{ -2.5 | abs }} {{ x | abs }} {{ yes | abs }}
{{ 'a' | abs }}
{{ word | string }} {{ 5 | string }} {{ [1] | string }} {{ missing | string }}|
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('>') }}|{{ 'a\nb\n' | indent(1) }}|{{ '' | indent }}|{{ lines | indent(width=1, first=true) }}
{{ 5 | indent }}
{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '..', 0) }} {{ 'añb' | truncate(1, true, '', 0) }}
{{ 'foo bar-baz, qux_1' | wordcount }} {{ 5 | wordcount }} {{ 'añ b' | wordcount }}
{{ '<a href="x">\'&' | escape }} {{ '<b>' | e }} {{ '<b>' | escape | escape }} {{ '<b>' | forceescape }} {{ '<b>' | safe }} {{ '<b>' | safe | escape }} {{ '<b>' | escape + '<i>' }} {{ '<b>' + '<i>' | escape }} {{ ['<' | safe] }} {{ ('<' | safe) ~ '<' }} {{ '<'|safe|upper }} {{ ('a<' | safe).replace('a', '<') }} {{ ('a' | safe) * 2 + '<' }} {{ ('<' | safe)[0] + '<' }} {{ 5 | safe + '<' }} {{ ('<' | safe | string) + '<' }}
{{ ('{:>4}' | safe).format('&' | safe) }}
{{ ('<%s> %d %r' | safe) % ('<', 5, '&') }} {{ ('<{}> {:>4}{}' | safe).format('<', '&', '&' | safe) }} {{ d[] }} {{ 'a' | safe | format }} {{ range(5).index(3) }} {{ range(9).count(3) }} {{ d[1, 2] }} {{ {(1, 2): 'x'}[1, 2] }} {{ [1] | truncate }} {{ '' % missing }}
{{ d | tojson }} {{ mixed | tojson }} {{ word | tojson }} {{ none | tojson }} {{ yes | tojson }} {{ x | tojson }} {{ n | tojson }} {{ (1, 2) | tojson }} {{ "\"\\\n\t\b\f\r\x01\x7f é 😀 </script>" | tojson }} {{ '<' | safe | tojson }}
{{ d | tojson(indent=2) }} {{ mixed | tojson(indent=0) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ d | tojson(indent='\t') }} {{ [[], {}, [1]] | tojson(indent=1) }} {{ mixed | tojson(indent=-1) }} {{ [1] | tojson(indent=true) }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(separators=(', ', ' = '), indent=1) }} {{ d | tojson(sort_keys=true) }} {{ word | tojson(ensure_ascii=true) }} {{ '😀' | tojson(true) }} {{ d | tojson(false, 4) }} {{ {'b': {'z': 1, 'a': 2}, 'a': 1} | tojson(sort_keys=true) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }} {{ [1e16, 1e-7, 1.0] | tojson }} {{ 'nan' | float | tojson }} {{ ['inf' | float] | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ missing | tojson }}
{{ namespace() | tojson }}
{{ range(2) | tojson }}
{{ d.keys() | tojson }}
{{ items_ | map('string') | tojson }}
{{ d | tojson(separators=1) }}
{{ d | tojson(nope=1) }}
{{ '%s and %d' | format('a', 5) }} {{ '%(a)s' | format(a=1) }} {{ '%s' % 5 }} {{ '%s %s' % (1, 'b') }} {{ '%5.2f|%-5d|%05d|%+d|% d|%x|%X|%o|%#x|%e|%g|%c|%%' % (3.14159, 7, 7, 7, 7, 255, 255, 8, 255, 12345.678, 0.0001, 'z') }} {{ '%r' % 'a' }} {{ '%(k)s' % {'k': 1} }} {{ '%5s|%-5s|%.2s' % ('a', 'b', 'cde') }} {{ '%d' % 3.7 }} {{ '%i' % yes }} {{ '%s' % [1, 2] }} {{ '%*d' % (5, 3) }} {{ '%08.3f' % -3.5 }} {{ '%.3d' % 5 }} {{ '%-08d|' % 5 }}
{{ '%d' % 'a' }}
{{ '%s %s' % 1 }}
{{ '%s' % (1, 2) }}
{{ 'a' % 1 }}
{{ '%q' % 1 }}
{{ '%' % 1 }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=5) }} {{ '{a[k]} {b[0]}'.format(a={'k': 1}, b=[2]) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.2f}|{:,}|{:x}|{:#x}|{:b}|{:e}|{:%}|{:+}|{!r}|{!s:>4}'.format('a', 'b', 'c', 'd', 42, 3.14159, 1234567, 255, 255, 5, 12345.678, 0.25, 3, 'q', 'z') }} {{ '{{}}'.format() }} {{ '{:{}}'.format('a', 5) }}| {{ '{:=+6d}'.format(5) }} {{ '{:_}'.format(1234567) }} {{ '{}'.format(none) }} {{ '{:d}'.format(yes) }} {{ '{}'.format(yes) }} {{ '{:.1}'.format('abc') }}
{{ '{}'.format() }}
{{ '{x}'.format() }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{:d}'.format('a') }}
{{ '{:5}'.format([]) }}
{{ '{0}{}'.format(1, 2) }}
{{ '{0.__class__}'.format(1) }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby(7) }} {{ n is divisibleby 2 }} {{ n is number }} {{ x is float }} {{ n is integer }} {{ yes is integer }} {{ yes is number }} {{ yes is boolean }} {{ yes is true }} {{ 1 is true }} {{ no is false }} {{ none is none }} {{ n is defined }} {{ missing is not defined }} {{ word is string }} {{ d is mapping }} {{ items_ is mapping }} {{ items_ is iterable }} {{ 5 is iterable }} {{ word is sequence }} {{ d is sequence }} {{ 5 is sequence }} {{ d.keys() is sequence }} {{ missing is iterable }} {{ missing is sequence }} {{ range(2) is sequence }}
{{ 'ab' is lower }} {{ 'AB' is upper }} {{ 5 is lower }} {{ n is eq 7 }} {{ n is equalto(7) }} {{ n is ne(7) }} {{ n is gt 5 }} {{ n is lt(5) }} {{ n is in [7] }} {{ 'a' is in 'cat' }} {{ n is sameas n }} {{ yes is sameas true }} {{ range is callable }} {{ word is callable }} {{ '<' is escaped }} {{ '<' | e is escaped }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ n is greaterthan 3 }} {{ n is le 7 }} {{ n is ge 8 }} {{ n is lessthan 9 }}
{{ 'a' is odd }}
{{ none is odd }}
{{ n is divisibleby(0) }}
{{ n is defined is true }}
{{ n is not none and n is not string }} {{ not n is none }} {{ n is number and x is number or missing }} {{ 'yes' if n is defined else 'no' }} {{ n is eq 7 and true }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %b %B %a %A %j %p %I %y %-d %e %f%z%Z %% %D %T') }} {{ strftime_now('') }} {{ strftime_now('é') }}
{{ raise_exception('no: ' ~ n) }}
{{ raise_exception() }}
{{ messages }} {{ tools }} {{ documents }} {{ add_generation_prompt }} {{ bos_token }} {{ pad_token is defined }}
a{# comment #}b{#- c -#} d {#+ e #}
f
{# g #}
h
a {%- if yes %} b {%- endif %} c {% if yes -%} d {% endif -%} e
{% if yes %}
  kept
{% endif %}
  {% if yes %}
  lstrip
  {% endif %}
  {%+ if yes %}
  no lstrip
  {%+ endif +%}
end
  {{ n }}
  {{- n -}}
  x
  {{+ n }}
{%- set a = 1 %}
{%- set b = 2 -%}
{{ a }}
{{ b }}

{% raw %}{{ n }} {% if %}{# #}{% endraw %}
  {%- raw -%}  {{ x }}  {%- endraw -%}  y
  {% raw %}
  z
  {% endraw %}
w
{{ '}}' }} {{ '%}' }} {{ {'a': {'b': 1}} }} {{ {'a': {'b': 1}}}}
{{ [1, 2
   , 3] }}{{ (1
+ 2) }}
{% if n == 7 and
   yes %}multi{% endif %}
{% if n %}1{% elif x %}2{% else %}3{% endif %}{% if no %}1{% elif x %}2{% else %}3{% endif %}{% if no %}1{% elif 0 %}2{% else %}3{% endif %}
{% if n: %}colon{% endif %}{% for i in [1]: %}{{ i }}{% endfor %}
{% print n, 'a', 1 + 1 %}
{{ 1, 2 }} {{ (1, 2)[0] }} {{ n.
unreal is undefined }}
{{ items_|length > 3 and items_[0] == 3 }} {{ (items_|length) - 1 }} {{ -1 | abs }} {{ 2 | string + '3' }} {{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ 'a' + 'b' | upper }} {{ not 'a' in 'b' }} {{ 1 + 1 ~ 'x' }} {{ 'x' ~ 1 + 1 }}
{{ word|upper|lower|title }} {{ d.C[1:][0] }} {{ 'abc'[1:]|upper }} {{ d['C'][-1] }} {{ 'a b'.split()[1].upper() }} {{ {'f': 'x'}.f.upper() }}
{% generation %}a{{ n }}{% endgeneration %} b {%- generation %}é😀{% endgeneration %}{{ word }}{% generation %}{% endgeneration %}
é{% for i in [1, 2] %}{% generation %}{{ i }}{% set q = 1 %}{% endgeneration %}{{ q }}-{% endfor %}
{% macro m() %}x{% generation %}y{% endgeneration %}z{% endmacro %}ab{{ m() }}{{ m() }}
{% set t %}x{% generation %}y{% endgeneration %}{% endset %}abc{{ t }}
{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}
{{ f(*[1, 2]) }}
{% macro f(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(*[1], **{'b': 5}) }}{{ f(1, *[2], c=4) }}{{ f(**{'a': 1, 'b': 2}) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(a=1, **{'a': 2}) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}
{% macro f(x, x) %}{% endmacro %}
{% macro f(x=1, y) %}{% endmacro %}
{{ f(a=1, 2) }}
{{ word.upper(1) }}
{{ word.nope() }}
{{ 5() }}
{{ [1, 2](0) }}
{{ n.x.y }}
{% if %}{% endif %}
{% for %}{% endfor %}
{% endif %}
{% if n %}
{% for x in y %}{% endif %}{% endfor %}
{% nope %}
{% set %}
{% set 5 = 1 %}
{% set a.b.c = 1 %}
{% set true = 1 %}
{{ }}
{{ n
{{ 'abc }}
{% raw %}
{# open
{{ n } }}
{{ (n }}
{{ n) }}
{{ [1, 2) }}
{{ n $ 1 }}
{{ n ! 1 }}
{{ a b }}
{{ n | }}
{{ n. }}
{{ n is }}
{{ {1} }}
{{ '\xg' }}
{% elif n %}
{%%}
{{ lambda }} {{ n if }}
{% set x = y = 1 %}
{{ not_a['b'] is defined }}
{% set messages = messages + [{'role': 'x', 'content': 'y'}] %}{{ messages | length }}{{ messages[-1].content }}
{% set m = messages | first %}{{ m.role }}{{ m['content'] }}{{ m.get('tool_calls') }}{{ 'role' in m }}{{ m.tool_calls is defined }}
{% for m in messages | rejectattr('role', 'in', ['user']) | list %}x{% else %}empty{% endfor %}
{% set ns = namespace(x=[]) %}{% for i in range(3) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}
{% set ns = namespace() %}{% set ns.f = 'x' %}{% for k in ['a'] %}{% set ns.f = ns.f ~ k %}{% endfor %}{{ ns.f }}{{ ns.g is defined }}
{% set ns = namespace(a=1) %}{% macro m(o) %}{% set o.a = 5 %}{% endmacro %}{{ m(ns) }}{{ ns.a }}
{{ (items_ | sort)[0] }}{{ (items_ | reverse | list)[0] }}{{ items_ | sort | first }}{{ (d | dictsort)[0][0] }}
{{ [d, d][1].a }}{{ [[1, 2], [3]] | sum(start=[]) }}{{ [['a', 1]] | map('first') | list }}{{ ['ab', 'c'] | map('length') | list }}{{ [[1, 2]] | map('join', '-') | first }}
{{ ['a'] | sum }}
{{ d == {'a': 'two', 'b': 1, 'C': [1, 2], 'items': 'own'} }} {{ [1] == (1,) }} {{ [1, [2]] == [1, [2.0]] }} {{ d != {} }} {{ range(3) == range(0, 3, 1) }} {{ 'a' | safe == 'a' }}
{{ lines }}{{ '\n' }}
"""


def split_snippets(text):
    """A snippet a line; a line that begins with a space, or does not end one, goes on in the next."""
    snippets, current = [], []
    for line in text.strip("\n").split("\n"):
        current.append(line)
        snippets.append(line)
    # Whole passages too, for what line ends do.
    lines = text.strip("\n").split("\n")
    start = lines.index("a{# comment #}b{#- c -#} d {#+ e #}")
    end = lines.index("{{ '}}' }} {{ '%}' }} {{ {'a': {'b': 1}} }} {{ {'a': {'b': 1}}}}")
    for i in range(start, end):
        for j in range(i + 1, end + 1):
            snippets.append("\n".join(lines[i:j]))
            snippets.append("\r\n".join(lines[i:j]) + "\n")
    snippets += ["", "\n", "\n\n", "a\n", "a\n\n", "{{ n }}\n", "{% if yes %}\n\n{% endif %}\n\n", "\\{{ n }}",
                 "{{ '\\q\\é\\\nx' }}", "{{ [1, 2\n   , 3] }}{{ (1\n+ 2) }}",
                 "{% if n == 7 and\n   yes %}multi{% endif %}", "{{ n.\nunreal is undefined }}",
                 "{{ 'x' * 1000 }}", "{", "{{", "{%", "{#", "}}", "%}", "a{b}c{ {x} %}", "{{{}}}", "{{{'a':1}}}",
                 "{%- if yes -%}\n a \n{%- endif -%}\n", "  {#- x -#}  y", "\u00a0{%- set a = 1 -%}\u3000x",
                 "\u00a0 {% set a = 1 %}\nx", "x {% set a = 1 %}\n\ny", "{{ n }}\n\n{{ n }}", "a\rb\r\nc"]
    return snippets


SNIPPETS = split_snippets(SNIPPETS)

# What refrain refuses or leaves undefined, and Jinja does not: none of it says anything about a
# conversation.
LEFT_OUT = {
    "texts of functions and generators, which are addresses": ["{{ range }}", "{{ items_ | map('upper') }}"],
    "integers of more than 64 bits": ["{{ big + big }}", "{{ 2 ** 100 }}"],
    "characters by name": [r"{{ '\N{DIGIT ONE}' }}"],
    "attributes of numbers": ["{{ n.real }}"],
    "slices of constants that have none": ["{{ none[1:] }}"],
    "names that are not ASCII": ["{% set é = 1 %}{{ é }}"],
    "recursive loops": ["{% for x in [[1]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}"],
    "blocks, inheritance, imports": ["{% block a %}x{% endblock %}", "{% autoescape true %}x{% endautoescape %}"],
    "an unknown filter that is not reached": ["{% for x in [] %}{{ x | nope }}{% endfor %}"],
    "functions and filters for pages": ["{{ cycler(1).next() }}", "{{ joiner() }}", "{{ 'a' | urlencode }}",
                                        "{{ 'a' | pprint }}", "{{ people | groupby('age') | list }}",
                                        "{{ 5 | filesizeformat }}", "{{ 'a' | wordwrap }}", "{{ 'a' | striptags }}",
                                        "{{ {} | xmlattr }}", "{{ 'a' | urlize }}"],
}


NAMES = ["n", "x", "yes", "no", "nothing", "empty", "word", "items_", "mixed", "names", "d", "people", "missing",
         "i", "a", "ns.v", "loop.index", "loop.last", "spaced", "title", "lines"]
LITERALS = ["0", "1", "-1", "2", "3.5", "''", "'a'", "'é b'", "'-'", "[]", "[1, 2]", "['b', 'A']", "{'a': 1}", "(1, 'x')",
            "none", "true", "false", "'%s'", "'name'", "range(4)"]
FILTERS = ["trim", "upper", "lower", "title", "capitalize", "length", "first", "last", "list", "join", "join('-')", "string",
           "int", "float", "abs", "round", "round(1)", "reverse", "sort", "unique", "tojson", "tojson(indent=1)", "default('z')",
           "default('z', true)", "replace('a', 'bb')", "map('upper')", "map('string')", "map(attribute='name')", "select",
           "select('string')", "reject('none')", "selectattr('age')", "items", "dictsort", "batch(2)", "indent", "escape", "safe",
           "sum", "min", "max", "format(1)", "wordcount", "truncate(5)", "center(9)", "map('length')", "list"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence", "iterable", "boolean",
         "true", "false", "odd", "even", "eq 1", "in items_", "divisibleby 2", "gt 1", "lower", "upper", "callable", "sameas none"]
METHODS = [".upper()", ".strip()", ".split()", ".split('a')", ".items()", ".keys()", ".get('a')", ".startswith('a')", ".title()",
           ".replace('a', '')", ".find('l')", "[0]", "[-1]", "[1:]", "[::-1]", "[:2]", "['a']", ".a", ".name", ".count('a')",
           ".join(['x', 'y'])", "[::2]", ".splitlines()", ".rstrip()", ".isalpha()", ".zfill(4)", ".format(1, 2)"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "+", "~", "=="]


def random_expression(rng, depth=3):
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(NAMES if rng.random() < 0.6 else LITERALS)
    inner = random_expression(rng, depth - 1)
    kind = rng.random()
    if kind < 0.25:
        return f"{inner} | {rng.choice(FILTERS)}"
    if kind < 0.45:
        return f"({inner}){rng.choice(METHODS)}" if rng.random() < 0.7 else inner + rng.choice(METHODS)
    if kind < 0.7:
        return f"{inner} {rng.choice(OPERATORS)} {random_expression(rng, depth - 1)}"
    if kind < 0.8:
        return f"{inner} is {rng.choice(['', 'not '])}{rng.choice(TESTS)}"
    if kind < 0.86:
        return f"{inner} if {random_expression(rng, depth - 1)} else {random_expression(rng, depth - 1)}"
    if kind < 0.9:
        return f"not {inner}"
    if kind < 0.95:
        return f"[{inner}, {random_expression(rng, depth - 1)}]"
    return f"({inner})"


def random_body(rng, depth):
    return "".join(random_statement(rng, depth) for _ in range(rng.randrange(1, 4)))


def random_tag(rng, text):
    return f"{{%{rng.choice(['', '', '-', '+'])} {text} {rng.choice(['', '', '-', '+'])}%}}"


def random_statement(rng, depth):
    kind = rng.random()
    if depth == 0 or kind < 0.2:
        return rng.choice(["text", " ", "\n", "  \n", "é", "\n  ", "a b"])
    if kind < 0.45:
        return f"{{{{{rng.choice(['', '-'])} {random_expression(rng)} {rng.choice(['', '-'])}}}}}"
    def tag(text):
        return random_tag(rng, text)

    if kind < 0.6:
        return (tag(f"if {random_expression(rng, 2)}") + random_body(rng, depth - 1)
                + (tag("else") + random_body(rng, depth - 1) if rng.random() < 0.5 else "") + tag("endif"))
    if kind < 0.75:
        condition = f" if {random_expression(rng, 1)}" if rng.random() < 0.2 else ""
        stop = tag(rng.choice(["break", "continue"])) if rng.random() < 0.1 else ""
        return (tag(f"for i in {rng.choice(['items_', 'people', 'd', 'word', 'range(3)', random_expression(rng, 1)])}{condition}")
                + random_body(rng, depth - 1) + stop
                + (tag("else") + random_body(rng, depth - 1) if rng.random() < 0.2 else "") + tag("endfor"))
    if kind < 0.88:
        return tag(f"set {rng.choice(['a', 'n', 'i', 'ns.v', 'word'])} = {random_expression(rng, 2)}")
    if kind < 0.92:
        return tag("set a") + random_body(rng, depth - 1) + tag("endset")
    if kind < 0.95:
        return tag("generation") + random_body(rng, depth - 1) + tag("endgeneration")
    if kind < 0.98:
        return (tag("macro m(a, i=2)") + random_body(rng, depth - 1) + tag("endmacro")
                + f"{{{{ m({random_expression(rng, 1)}) }}}}")
    return tag(f"with a = {random_expression(rng, 1)}") + random_body(rng, depth - 1) + tag("endwith")


def random_template(rng):
    return "{% set ns = namespace(v=0) %}" + random_body(rng, 3)
