#!/usr/bin/env python3
"""Looks for templates that graft and transformers render differently.

Usage: template_diff.py --library build/libgraft.so [--seed N] [--count N] [--seconds S] [--mutate]

Writes random small templates from a grammar of the whole language (with --mutate: the templates of
tools/golden/chat_templates with a few random edits), renders each with transformers' own function and
with graft_template_render, and prints those where one raises and the other does not, or where the texts or the
generation spans differ. Not part of the tests: it needs transformers (made with 5.23.0 and Jinja2 3.1.6), and a
difference may be one that include/graft/template.h names (integers over 64 bits, refused filters). Each difference
that was an error of graft's has become a case of tools/golden/make_templates.py."""
import argparse
import ctypes
import datetime
import json
import logging
import pathlib
import random
import re
import sys
import time
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
from transformers.utils import chat_template_utils as reference  # noqa: E402

NOW = datetime.datetime(2025, 7, 24, 13, 5, 9)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW.timetuple()[:6])


reference.datetime = FixedClock

VARIABLES = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "héllo\n<b>"},
                 {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
                 {"role": "tool", "content": "7"}, {"role": "assistant", "content": [{"type": "text", "text": "Done"}]}],
    "s": "Hello wOrld", "t": "  añb,c;d-e \n", "u": "Straße ΑΣ ﬁ İ 日本 😀", "n": 5, "z": 0, "f": 2.5, "g": -0.1, "b": True,
    "e": "", "w": "a b  c", "num": "42", "numf": "4.5e1", "html": "<a href='x'>&amp;\"</a>",
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "lm": [1, "a", None, 2.5, [1], {"k": 1}], "el": [], "d": {"b": 1, "a": [1, 2.5, None]},
    "ed": {}, "ld": [{"a": 2, "b": "x", "c": {"d": 1}}, {"a": 1, "b": "Y", "c": {"d": 3}}, {"a": 2, "b": "z"}],
    "nn": None, "bos_token": "<s>", "eos_token": "</s>", "dd": {"items": 1, "get": 2, "x y": 3, "1": 4, "nested": {"a": {"b": "deep"}}},
}
PLAIN = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "héllo\n<b>"}, {"role": "assistant", "content": "Yes."},
         {"role": "user", "content": "a b"}]
NAMES = [k for k in VARIABLES if k != "messages"] + ["messages", "messages[0]", "messages[2]", "undef", "m"]
STRINGS = ["'a'", "'b'", "''", "' '", "','", "'x,y'", "'é'", "'Ab c'", "'%s'", "'{}'", "'-'", "'1'", "'a.b'", "'\\n'", "'role'",
           "'content'", "'items'", "'a b c d'", "'{:>5}'", "'%d|%s'", "'<'", "'key'", "'b,a'", "'c.d'", "'abc'", "'upper'", "'\"'", '"it\'s"']
NUMBERS = ["0", "1", "2", "3", "-1", "-2", "7", "10", "1.5", "0.1", "-2.5", "1e3", "100", "2.675", "1e16", "-7"]
ATTRS = ["a", "b", "c", "items", "role", "content", "keys", "get", "x", "nested", "append", "upper", "real", "_x", "tool_calls", "__class__"]
FILTERS = {
    "abs": "", "attr": "s", "batch": "ia", "capitalize": "", "center": "i", "count": "", "d": "ab", "default": "ab", "dictsort": "bkb",
    "e": "", "escape": "", "filesizeformat": "b", "first": "", "float": "a", "forceescape": "", "format": "aaa", "groupby": "sab",
    "indent": "ibb", "int": "ai", "items": "", "join": "ss", "last": "", "length": "", "list": "", "lower": "", "map": "Fa", "max": "bs",
    "min": "bs", "pprint": "", "reject": "Ta", "rejectattr": "sTa", "replace": "ssi", "reverse": "", "round": "im", "safe": "", "select": "Ta",
    "selectattr": "sTa", "slice": "ia", "sort": "bbs", "string": "", "striptags": "", "sum": "sa", "title": "", "tojson": "biab", "trim": "s",
    "truncate": "ibsi", "unique": "bs", "upper": "", "urlencode": "", "wordcount": "", "wordwrap": "ibsb", "xmlattr": "b"}
KEYWORDS = {"join": ["d", "attribute"], "sort": ["reverse", "case_sensitive", "attribute"], "map": ["attribute", "default"], "indent": ["width", "first", "blank"],
            "tojson": ["indent", "separators", "sort_keys", "ensure_ascii"], "default": ["default_value", "boolean"], "int": ["default", "base"],
            "round": ["precision", "method"], "groupby": ["attribute", "default", "case_sensitive"], "sum": ["attribute", "start"],
            "dictsort": ["by", "reverse", "case_sensitive"], "truncate": ["length", "killwords", "end", "leeway"], "unique": ["attribute", "case_sensitive"],
            "min": ["attribute"], "max": ["attribute"], "batch": ["fill_with"], "slice": ["fill_with"], "trim": ["chars"], "replace": ["count"]}
TESTS = {"boolean": "", "callable": "", "defined": "", "divisibleby": "i", "eq": "a", "equalto": "a", "escaped": "", "even": "", "false": "",
         "filter": "", "float": "", "ge": "a", "gt": "a", "in": "a", "integer": "", "iterable": "", "le": "a", "lower": "", "lt": "a", "mapping": "",
         "ne": "a", "none": "", "number": "", "odd": "", "sameas": "c", "sequence": "", "string": "", "test": "", "true": "", "undefined": "", "upper": ""}
METHODS = {
    "split": "si", "rsplit": "si", "strip": "s", "lstrip": "s", "rstrip": "s", "startswith": "sii", "endswith": "s", "replace": "ssi", "upper": "",
    "lower": "", "title": "", "capitalize": "", "join": "a", "format": "aa", "find": "sii", "rfind": "s", "index": "s", "count": "s", "splitlines": "b",
    "removeprefix": "s", "removesuffix": "s", "isdigit": "", "isalpha": "", "isupper": "", "islower": "", "istitle": "", "isspace": "", "isalnum": "",
    "zfill": "i", "center": "is", "ljust": "is", "rjust": "i", "partition": "s", "rpartition": "s", "swapcase": "", "casefold": "", "expandtabs": "i",
    "items": "", "keys": "", "values": "", "get": "sa", "copy": "", "append": "a", "isdecimal": "", "isnumeric": "", "isidentifier": "", "isprintable": ""}


class Writer:
    def __init__(self, rng):
        self.r = rng
        self.loop_depth = 0

    def pick(self, items):
        return self.r.choice(items)

    def atom(self):
        return self.pick([self.pick(NAMES), self.pick(NAMES), self.pick(STRINGS), self.pick(NUMBERS), self.pick(["true", "false", "none"])])

    def argument(self, kind, depth):
        if self.r.random() < 0.12:
            return self.expression(depth - 1)
        if kind == "i":
            return self.pick(["0", "1", "2", "3", "5", "-1", "4", "10", "none"])
        if kind == "s":
            return self.pick(STRINGS + ["s", "t"])
        if kind == "b":
            return self.pick(["true", "false"])
        if kind == "k":
            return self.pick(["'key'", "'value'", "true"])
        if kind == "m":
            return self.pick(["'common'", "'ceil'", "'floor'"])
        if kind == "F":
            return "'%s'" % self.pick(list(FILTERS))
        if kind == "T":
            return "'%s'" % self.pick(list(TESTS) + ["==", "!=", "<"])
        if kind == "c":
            return self.pick(["none", "true", "false", "n"])
        return self.expression(depth - 1)

    def arguments(self, spec, depth):
        n = self.r.randint(0, len(spec)) if self.r.random() < 0.8 else len(spec)
        return [self.argument(k, depth) for k in spec[:n]]

    def expression(self, depth):
        if depth <= 0 or self.r.random() < 0.15:
            return self.atom()
        kind = self.r.randrange(16)
        sub = lambda: self.expression(depth - 1)  # noqa: E731
        if kind <= 3:
            name = self.pick(list(FILTERS))
            args = self.arguments(FILTERS[name], depth)
            if name in KEYWORDS and self.r.random() < 0.35:
                args = args[:self.r.randint(0, 1)] + ["%s=%s" % (self.pick(KEYWORDS[name]), self.argument(self.pick("isba"), depth))]
            return "%s|%s%s" % (self.wrapped(depth), name, "(%s)" % ", ".join(args) if args or self.r.random() < 0.1 else "")
        if kind <= 5:
            name = self.pick(list(METHODS))
            return "%s.%s(%s)" % (self.wrapped(depth), name, ", ".join(self.arguments(METHODS[name], depth)))
        if kind == 6:
            name = self.pick(list(TESTS))
            args = self.arguments(TESTS[name], depth)
            return "(%s is %s%s%s)" % (sub(), self.pick(["", "not "]), name, "(%s)" % ", ".join(args) if args else "")
        if kind == 7 and self.r.random() < 0.1:  # small exponents: Python would happily work on huge integers for hours
            return "(%s ** %s)" % (sub(), self.pick(["0", "1", "2", "3", "-1", "0.5"]))
        if kind == 7:
            return "(%s %s %s)" % (sub(), self.pick(["+", "-", "*", "/", "//", "%", "~", "~", "+"]), sub())
        if kind == 8:
            return "(%s %s %s)" % (sub(), self.pick(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), sub())
        if kind == 9:
            return "(%s %s %s)" % (sub(), self.pick(["and", "or"]), sub())
        if kind == 10:
            return "(%s if %s%s)" % (sub(), sub(), " else " + sub() if self.r.random() < 0.8 else "")
        if kind == 11:
            return "%s.%s" % (self.wrapped(depth), self.pick(ATTRS))
        if kind == 12:
            if self.r.random() < 0.5:
                return "%s[%s]" % (self.wrapped(depth), sub())
            part = lambda: self.pick(["", "", "0", "1", "-1", "2", "-3", "5"])  # noqa: E731
            return "%s[%s:%s%s]" % (self.wrapped(depth), part(), part(), ":" + self.pick(["", "-1", "2", "1", "-2"]) if self.r.random() < 0.4 else "")
        if kind == 13:
            items = [sub() for _ in range(self.r.randint(0, 3))]
            return self.pick(["[%s]" % ", ".join(items), "(%s,)" % ", ".join(items) if items else "()",
                              "{%s}" % ", ".join("%s: %s" % (self.pick(STRINGS + NUMBERS + ["true", "none"]), i) for i in items)])
        if kind == 14:
            return self.pick(["not %s", "-%s", "+%s"]) % self.wrapped(depth)
        return self.pick(["range(%s)" % self.pick(["3", "1, 4", "5, 0, -2", "n"]), "dict(a=%s)" % sub(), "namespace(a=%s).a" % sub(), "loop.index", "loop.last",
                          "loop.length", "loop.first", "loop.previtem", "loop.nextitem", "loop.cycle(1, 'x')", "loop.revindex", "loop.changed(%s)" % sub(),
                          "m(%s)" % sub(), "m(%s, q=%s)" % (sub(), sub()), "strftime_now('%Y %b %-d')", "'%s' %% ".replace('%%', '%') + self.wrapped(depth), "'%5.1f' % " + self.wrapped(depth),
                          "'{:>6}|{!r}'.format(%s, %s)" % (sub(), sub()), "ns.v", "varargs", "kwargs", "caller()"])

    def wrapped(self, depth):
        e = self.expression(depth - 1)
        return e if re.fullmatch(r"\w+|'[^']*'", e) else "(%s)" % e

    def tag(self, text):
        left, right = self.pick(["", "", "", "-", "+"]), self.pick(["", "", "", "-", "+"])
        return "{%%%s %s %s%%}" % (left, text, right)

    def body(self, depth):
        return "".join(self.statement(depth) for _ in range(self.r.randint(1, 3)))

    def statement(self, depth):
        kind = self.r.randrange(17) if depth > 0 else self.r.randrange(4)
        e = lambda: self.expression(self.r.randint(1, 3))  # noqa: E731
        if kind == 0:
            return self.pick(["text ", "\n", "  ", "a\n  ", "\n\n", "é", " x\n"])
        if kind <= 3:
            return "{{%s %s %s}}" % (self.pick(["", "", "-"]), e(), self.pick(["", "", "-"]))
        if kind == 4:
            return self.tag("if " + e()) + self.body(depth - 1) + (self.tag("elif " + e()) + self.body(depth - 1) if self.r.random() < 0.3 else "") + (
                self.tag("else") + self.body(depth - 1) if self.r.random() < 0.5 else "") + self.tag("endif")
        if kind <= 7:
            head = self.pick(["for m in messages", "for x in " + e(), "for k, v in %s.items()" % self.pick(["d", "dd", "ed", "s"]), "for c in u", "for i in range(4)",
                              "for x in l if x > 1", "for k, v in d|items", "for x in %s if %s" % (e(), e())])
            self.loop_depth += 1
            text = self.body(depth - 1)
            if self.r.random() < 0.2:
                text += self.tag("if " + e()) + self.tag(self.pick(["break", "continue"])) + self.tag("endif") + self.body(depth - 1)
            self.loop_depth -= 1
            return self.tag(head) + text + (self.tag("else") + self.body(depth - 1) if self.r.random() < 0.25 else "") + self.tag("endfor")
        if kind <= 9:
            return self.tag("set %s = %s" % (self.pick(["n", "s", "q", "x", "m", "q, r"]), e()))
        if kind == 10:
            return self.tag("set q" + self.pick(["", " | upper", " | trim | length"])) + self.body(depth - 1) + self.tag("endset")
        if kind == 11:
            return self.tag("macro m(%s)" % self.pick(["", "a", "a, b=2", "a=n, q=a"])) + self.body(depth - 1) + self.tag("endmacro")
        if kind == 12:
            return self.tag("call%s m(%s)" % (self.pick(["", "(y)"]), self.pick(["", "1", e()]))) + self.body(depth - 1) + self.tag("endcall")
        if kind == 13:
            return self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')", "indent", "length", "title"])) + self.body(depth - 1) + self.tag("endfilter")
        if kind == 14:
            return self.tag("with x = %s, y = x" % e()) + self.body(depth - 1) + self.tag("endwith")
        if kind == 15:
            return self.tag("generation") + self.body(depth - 1) + self.tag("endgeneration")
        return self.pick(["{#%s c %s#}" % (self.pick(["", "-"]), self.pick(["", "-"])), "{% raw %} {{ x }}\n{% endraw %}",
                          "{% set ns = namespace(v=1) %}", "{% set ns.v = ns.v + 1 %}", "{% set ns.v = " + e() + " %}"])

    def template(self):
        if self.r.random() < 0.6:
            return "{{ %s }}" % self.expression(self.r.randint(2, 3))
        return "".join(self.statement(3) for _ in range(self.r.randint(1, 4)))


SNIPPETS = ["{%", "%}", "{{", "}}", "{#", "#}", "-", "+", "\n", "  ", "(", ")", "[", "]", "'", '"', "|trim", "|tojson", " is defined", " not ", " and ", ".x", "[0]",
            "[1:]", "{% endif %}", "{% else %}", "{% if x %}", "{% endfor %}", "{%- set x = 1 -%}", "{% break %}", "loop.last", " ~ ", " + ", "none", "é", "%", "{% raw %}"]


def mutate(rng, text):
    """`text` with one to three pieces removed, doubled, exchanged or put in."""
    for _ in range(rng.randint(1, 3)):
        pieces = [p for p in re.split(r"(\{[%{#][-+]?|[-+]?[%}#]\}|\W)", text) if p]
        i, k = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        edit = rng.randrange(5)
        if edit == 0:
            del pieces[i:i + rng.randint(1, 4)]
        elif edit == 1:
            pieces.insert(i, rng.choice(SNIPPETS))
        elif edit == 2:
            pieces[i], pieces[k] = pieces[k], pieces[i]
        elif edit == 3:
            pieces[i] = rng.choice(SNIPPETS + pieces)
        else:
            pieces[i:i] = pieces[k:k + rng.randint(1, 6)]
        text = "".join(pieces)
    return text


class Span(ctypes.Structure):
    _fields_ = [("start", ctypes.c_size_t), ("end", ctypes.c_size_t)]


class Spans(ctypes.Structure):
    _fields_ = [("items", ctypes.POINTER(Span)), ("n", ctypes.c_size_t)]


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char * 1024)]


class Tm(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in "sec min hour mday mon year wday yday isdst".split()] + [("gmtoff", ctypes.c_long), ("zone", ctypes.c_char_p)]


class Options(ctypes.Structure):
    _fields_ = [("now", ctypes.POINTER(Tm)), ("max_output", ctypes.c_size_t), ("max_memory", ctypes.c_size_t), ("max_steps", ctypes.c_uint64),
                ("max_depth", ctypes.c_uint)]


class Graft:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.ctx = ctypes.c_void_p()
        t = NOW.timetuple()
        tm = Tm(t.tm_sec, t.tm_min, t.tm_hour, t.tm_mday, t.tm_mon - 1, t.tm_year - 1900, (t.tm_wday + 1) % 7, t.tm_yday - 1)
        self.options = Options(ctypes.pointer(tm))
        if self.lib.graft_context_new(None, ctypes.byref(self.ctx), None):
            sys.exit("no context")

    def render(self, text, variables):
        """(text, spans) or the error as a string"""
        t, out, n, spans, err = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(), Spans(), Error()
        raw = text.encode()
        if self.lib.graft_template_parse(self.ctx, raw, ctypes.c_size_t(len(raw)), None, ctypes.byref(t), ctypes.byref(err)):
            return err.text.decode()
        data = json.dumps(variables).encode()
        status = self.lib.graft_template_render(t, data, ctypes.c_size_t(len(data)), ctypes.byref(self.options), ctypes.byref(out), ctypes.byref(n),
                                                ctypes.byref(spans), ctypes.byref(err))
        self.lib.graft_template_free(t)
        if status:
            return err.text.decode()
        result = (ctypes.string_at(out, n.value).decode(), [(spans.items[i].start, spans.items[i].end) for i in range(spans.n)])
        self.lib.graft_free(self.ctx, out)
        self.lib.graft_free(self.ctx, ctypes.cast(spans.items, ctypes.c_void_p))
        return result


def expected(text, variables):
    """(text, spans in bytes) or the exception as a string"""
    variables = json.loads(json.dumps(variables))
    messages = variables.pop("messages")
    try:
        out, spans = reference.render_jinja_template([messages], chat_template=text, return_assistant_tokens_mask=True, **variables)
    except Exception as e:  # noqa: BLE001
        return "%s: %s" % (type(e).__name__, e)
    return out[0], [(len(out[0][:a].encode()), len(out[0][:b].encode())) for a, b in spans[0]]


# Texts that no two processes share, and differences that the header names.
ADDRESS = re.compile(r" at 0x[0-9a-f]+|<[\w. ]*(function|object|method|class|generator)|[(\[ ]<", re.I)
# Complex numbers are one; and Jinja folds constants before it runs, and a slice of a constant that has none gives an undefined value there only.
NAMED = re.compile(r"64 bits|not supported|more than the limit|surrogate|cannot be sliced|fractional power")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mutate", action="store_true")
    args = parser.parse_args()
    graft, differences, tried, fine = Graft(args.library), 0, 0, 0
    models = [p.read_text() for p in sorted(pathlib.Path(__file__).with_name("golden").glob("chat_templates/*.jinja"))]
    end = time.time() + args.seconds
    seed = args.seed
    variables = {**VARIABLES, "messages": PLAIN} if args.mutate else VARIABLES
    while tried < args.count and time.time() < end:
        rng = random.Random(seed)
        text = mutate(rng, rng.choice(models)) if args.mutate else Writer(rng).template()
        seed += 1
        tried += 1
        want, got = expected(text, variables), graft.render(text, variables)
        reference._compile_jinja_template.cache_clear()
        if isinstance(want, str) and isinstance(got, str):
            continue
        fine += 1
        if want == got or (isinstance(got, str) and NAMED.search(got)):
            continue
        if not isinstance(want, str) and ADDRESS.search(want[0]):
            continue
        differences += 1
        print("--- seed %d\n%s\nexpected %r\n     got %r" % (seed - 1, text, want, got), flush=True)
    print("%d templates, %d rendered by one or both, %d differences" % (tried, fine, differences))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
