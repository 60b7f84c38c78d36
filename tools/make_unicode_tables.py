#!/usr/bin/env python3
"""Writes src/text/unicode_tables.c: the character classes that the `tokenizers` library sees, found by asking it.

Usage: make_unicode_tables.py  (from the project's root).
Made with Python 3.11, tokenizers 0.23.3 (Oniguruma with Unicode 16, Rust 1.9x with Unicode 17, unicode-normalization-alignments
0.1 with Unicode 9, unicode_categories 0.1), PCRE2 10.42 (Unicode 14), utf8proc 2.8 (Unicode 15)."""
import ctypes

from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 4096
CATEGORIES = ("L M N P S Lu Ll Lm Lo Mn Mc Nd No Pd Po Sm So Cf Alphabetic Lowercase Uppercase "
              "Han Hiragana Katakana Latin Cyrillic Arabic").split()


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def chunks():
    for i in range(0, len(POINTS), CHUNK):
        yield POINTS[i:i + CHUNK]


def removed(pre):
    """The characters that a splitting pre-tokeniser takes out."""
    out = set()
    for chunk in chunks():
        kept = set()
        for _, (a, b) in pre.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(chunk[a:b])
        out |= set(chunk) - kept
    return out


def oniguruma(category):
    return removed(pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed", False))


class Pcre:
    def __init__(self):
        self.lib = lib = ctypes.CDLL("libpcre2-8.so.0")
        lib.pcre2_compile_8.restype = lib.pcre2_match_data_create_8.restype = ctypes.c_void_p
        lib.pcre2_compile_8.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32] + [ctypes.c_void_p] * 3
        lib.pcre2_match_data_create_8.argtypes = [ctypes.c_uint32, ctypes.c_void_p]
        lib.pcre2_match_8.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint32] + [ctypes.c_void_p] * 2
        self.match = lib.pcre2_match_data_create_8(1, None)

    def members(self, pattern):
        code, error, at = pattern.encode(), ctypes.c_int(), ctypes.c_size_t()
        code = self.lib.pcre2_compile_8(code, len(code), 0x000A0000, ctypes.byref(error), ctypes.byref(at), None)
        assert code, pattern
        out = set()
        for c in POINTS:
            text = chr(c).encode()
            if self.lib.pcre2_match_8(code, text, len(text), 0, 0, self.match, None) >= 0:
                out.add(c)
        return out


def deltas():
    pcre = Pcre()
    for name in CATEGORIES:
        script = len(name) > 2 and name not in ("Alphabetic", "Lowercase", "Uppercase")
        found = ranges(oniguruma(name) - pcre.members((r"\p{sc:%s}" if script else r"\p{%s}") % name))
        text = "".join("\\\\x{%x}" % a if a == b else "\\\\x{%x}-\\\\x{%x}" % (a, b) for a, b in found)
        yield ("sc:" + name.lower()) if script else name, text


def words():
    """\\w of Rust's regular expressions: what Whitespace does not cut off a letter."""
    pre = pre_tokenizers.Whitespace()
    return {c for c in POINTS if len(pre.pre_tokenize_str("a" + chr(c) + "a")) == 1}


def bert(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    options.update(on)
    return normalizers.BertNormalizer(**options)


def dropped(norm, skip=lambda c: False):
    return {c for c in POINTS if not skip(c) and norm.normalize_str("a" + chr(c) + "a") == "aa"}


def utf8proc():
    lib = ctypes.CDLL("libutf8proc.so.2")
    lib.utf8proc_decompose_char.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_ssize_t, ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    lib.utf8proc_decompose_char.restype = ctypes.c_ssize_t

    class Property(ctypes.Structure):
        _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]
    lib.utf8proc_get_property.restype = ctypes.POINTER(Property)
    lib.utf8proc_get_property.argtypes = [ctypes.c_int32]
    lib.utf8proc_tolower.restype = ctypes.c_int32
    return lib


def decompose(lib, c):
    parts, last = (ctypes.c_int32 * 32)(), ctypes.c_int(0)
    n = lib.utf8proc_decompose_char(c, parts, 32, 2 | 4 | 16, ctypes.byref(last))
    return "".join(chr(x) for x in parts[:n])


def not_normalized(lib):
    """Characters to which utf8proc gives a decomposition or a combining class and the reference's older tables do not."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    out = set()
    for c in POINTS:
        char = chr(c)
        if nfkd.normalize_str(char) == char:
            if decompose(lib, c) != char:
                out.add(c)
            if lib.utf8proc_get_property(c).contents.combining_class:
                text = "a\u0301" + char + "\u0323"  # U+0323 goes before U+0301 unless a class 0 stands between
                if nfd.normalize_str(text) == text:
                    out.add(c)
    return out


def lowercase(lib):
    lower = normalizers.Lowercase()
    for c in POINTS:
        text = lower.normalize_str(chr(c))
        if len(text) == 1 and ord(text) != lib.utf8proc_tolower(c):
            yield c, ord(text)


def scripts():
    """Ranges of one script each, Any left out; Hiragana and Katakana are Han here, as UnicodeScripts takes them."""
    pre = pre_tokenizers.UnicodeScripts()

    def parts(text):
        return len(pre.pre_tokenize_str(text))

    def joins(before, c, after):
        return pre.pre_tokenize_str(before + chr(c) + after)[0][0] == before + chr(c)
    known = {c for c in POINTS if not (joins("a", c, "б") and joins("б", c, "a"))}
    out, samples = [], []
    for first, last in ranges(known):
        text = "".join(map(chr, range(first, last + 1)))
        for piece, (a, b) in pre.pre_tokenize_str(text):
            for number, sample in enumerate(samples):
                if parts(sample + piece[0]) == 1:
                    break
            else:
                number = len(samples)
                samples.append(piece[0])
            if out and out[-1][2] == number + 1 and out[-1][1] == first + a - 1:
                out[-1][1] = first + b - 1
            else:
                out.append([first + a, first + b - 1, number + 1])
    return out


def write_rows(f, items, per_line):
    for i in range(0, len(items), per_line):
        f.write("    " + " ".join(items[i:i + per_line]) + "\n")


def write_set(f, name, points):
    items = ["{0x%x, 0x%x}," % tuple(r) for r in ranges(points)]
    f.write("const gr_range gr_%s[] = {\n" % name)
    write_rows(f, items, 6)
    f.write("};\nconst size_t gr_n_%s = sizeof gr_%s / sizeof *gr_%s;\n\n" % (name, name, name))


def main():
    lib = utf8proc()
    nfd = normalizers.NFD()
    with open("src/text/unicode_tables.c", "w") as f:
        f.write("/* Written by tools/make_unicode_tables.py: not to be edited. */\n#include \"text/unicode_tables.h\"\n\n")
        print("punctuation, digits", flush=True)
        write_set(f, "punctuation", removed(pre_tokenizers.Punctuation("removed")))
        write_set(f, "word", words())
        write_set(f, "numeric", {c for c in POINTS if len(pre_tokenizers.Digits(False).pre_tokenize_str("a" + chr(c))) == 2})
        print("marks", flush=True)
        write_set(f, "mark", dropped(normalizers.StripAccents()))
        write_set(f, "nonspacing", dropped(bert(strip_accents=True), lambda c: nfd.normalize_str(chr(c)) != chr(c)))
        write_set(f, "other", dropped(bert(clean_text=True), lambda c: c in (0, 0xFFFD)))
        print("normal forms, case", flush=True)
        write_set(f, "not_normalized", not_normalized(lib))
        pairs = list(lowercase(lib))
        f.write("const gr_range gr_lower[] = {\n")
        write_rows(f, ["{0x%x, 0x%x}," % p for p in pairs], 6)
        f.write("};\nconst size_t gr_n_lower = sizeof gr_lower / sizeof *gr_lower;\n\n")
        print("scripts", flush=True)
        f.write("const gr_script_range gr_scripts[] = {\n")
        write_rows(f, ["{0x%x, 0x%x, %d}," % tuple(r) for r in scripts()], 5)
        f.write("};\nconst size_t gr_n_scripts = sizeof gr_scripts / sizeof *gr_scripts;\n\n")
        print("categories", flush=True)
        f.write("const gr_category_items gr_categories[] = {\n")
        for name, text in deltas():
            f.write("    {\"%s\", %s},\n" % (name, "\n     ".join("\"%s\"" % line for line in split_escapes(text)) or '""'))
        f.write("};\nconst size_t gr_n_categories = sizeof gr_categories / sizeof *gr_categories;\n")


def split_escapes(text):
    """Lines of about 100 characters, cut before a backslash."""
    lines, at = [], 0
    while at < len(text):
        end = text.rfind("\\\\x", at + 1, at + 105) if len(text) - at > 105 else len(text)
        if text[end - 1] == "-":
            end = text.rfind("\\\\x", at + 1, end - 1)
        lines.append(text[at:end])
        at = end
    return lines


main()
