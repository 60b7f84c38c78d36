/* The five steps of Porter's algorithm as tables of (suffix, replacement, least measure). In a table the first suffix
 * that the word ends with decides: when its condition fails nothing else is tried. The measure of a stem is how often
 * a vowel is followed by a consonant in it. */
#include "eval/metrics.h"

typedef struct word {
    char *s;
    size_t n;
} word;

typedef struct rule {
    const char *suffix, *replacement;
    size_t measure; /* the stem's measure must be at least this; 0: always */
} rule;

static bool is_vowel(char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; }

/* y is a consonant at the start and after a vowel. */
static bool next_is_consonant(char c, bool first, bool after_consonant) {
    return c == 'y' ? first || !after_consonant : !is_vowel(c);
}

static bool is_consonant(const word *w, size_t i) {
    bool c = false;
    for (size_t k = 0; k <= i; k++) c = next_is_consonant(w->s[k], k == 0, c);
    return c;
}

static size_t measure(const char *s, size_t n) {
    size_t m = 0;
    bool before = true;
    for (size_t i = 0; i < n; i++) {
        bool c = next_is_consonant(s[i], i == 0, before);
        m += c && !before;
        before = c;
    }
    return m;
}

static bool has_vowel(const char *s, size_t n) {
    bool c = false;
    for (size_t i = 0; i < n; i++)
        if (!(c = next_is_consonant(s[i], i == 0, c))) return true;
    return false;
}

static bool ends(const word *w, const char *suffix) {
    size_t n = strlen(suffix);
    return w->n >= n && memcmp(w->s + w->n - n, suffix, n) == 0;
}

static void replace(word *w, const char *suffix, const char *by) {
    w->n -= strlen(suffix);
    size_t n = strlen(by);
    memcpy(w->s + w->n, by, n);
    w->n += n;
}

static void apply(word *w, const rule *rules, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!ends(w, rules[i].suffix)) continue;
        if (measure(w->s, w->n - strlen(rules[i].suffix)) >= rules[i].measure)
            replace(w, rules[i].suffix, rules[i].replacement);
        return;
    }
}

/* The stem ends consonant, vowel, consonant, the last not w, x or y; or it is a vowel and a consonant. */
static bool ends_cvc(const word *w) {
    size_t n = w->n;
    if (n == 2) return !is_consonant(w, 0) && is_consonant(w, 1);
    return n >= 3 && is_consonant(w, n - 3) && !is_consonant(w, n - 2) && is_consonant(w, n - 1) &&
           !strchr("wxy", w->s[n - 1]);
}

static bool ends_double_consonant(const word *w) {
    return w->n >= 2 && w->s[w->n - 1] == w->s[w->n - 2] && is_consonant(w, w->n - 1);
}

/* Plurals. */
static void step1a(word *w) {
    static const rule rules[] = {{"sses", "ss", 0}, {"ies", "i", 0}, {"ss", "ss", 0}, {"s", "", 0}};
    if (w->n == 4 && ends(w, "ies")) replace(w, "ies", "ie");
    else apply(w, rules, GR_COUNT(rules));
}

/* -ed and -ing, and what their removal leaves behind. */
static void step1b(word *w) {
    if (ends(w, "ied")) {
        replace(w, "ied", w->n == 4 ? "ie" : "i");
        return;
    }
    if (ends(w, "eed")) {
        if (measure(w->s, w->n - 3) > 0) replace(w, "eed", "ee");
        return;
    }
    if (ends(w, "ed") && has_vowel(w->s, w->n - 2)) w->n -= 2;
    else if (ends(w, "ing") && has_vowel(w->s, w->n - 3)) w->n -= 3;
    else return;
    if (ends(w, "at") || ends(w, "bl") || ends(w, "iz")) {
        w->s[w->n++] = 'e';
    } else if (ends_double_consonant(w)) {
        if (!strchr("lsz", w->s[w->n - 1])) w->n--;
    } else if (measure(w->s, w->n) == 1 && ends_cvc(w)) {
        w->s[w->n++] = 'e';
    }
}

static void step1c(word *w) {
    if (w->n > 2 && ends(w, "y") && is_consonant(w, w->n - 2)) w->s[w->n - 1] = 'i';
}

static void step2(word *w) {
    static const rule rules[] = {
        {"ational", "ate", 1}, {"tional", "tion", 1}, {"enci", "ence", 1},   {"anci", "ance", 1},
        {"izer", "ize", 1},    {"bli", "ble", 1},     {"alli", "al", 1},     {"entli", "ent", 1},
        {"eli", "e", 1},       {"ousli", "ous", 1},   {"ization", "ize", 1}, {"ation", "ate", 1},
        {"ator", "ate", 1},    {"alism", "al", 1},    {"iveness", "ive", 1}, {"fulness", "ful", 1},
        {"ousness", "ous", 1}, {"aliti", "al", 1},    {"iviti", "ive", 1},   {"biliti", "ble", 1},
        {"fulli", "ful", 1},
    };
    while (ends(w, "alli") && measure(w->s, w->n - 4) > 0) w->n -= 2;
    if (ends(w, "logi")) { /* no other suffix ends so; the l counts to the stem */
        if (measure(w->s, w->n - 3) > 0) w->n--;
        return;
    }
    apply(w, rules, GR_COUNT(rules));
}

static void step3(word *w) {
    static const rule rules[] = {{"icate", "ic", 1}, {"ative", "", 1}, {"alize", "al", 1}, {"iciti", "ic", 1},
                                 {"ical", "ic", 1},  {"ful", "", 1},   {"ness", "", 1}};
    apply(w, rules, GR_COUNT(rules));
}

static void step4(word *w) {
    static const rule rules[] = {
        {"al", "", 2},   {"ance", "", 2}, {"ence", "", 2},  {"er", "", 2},   {"ic", "", 2},  {"able", "", 2},
        {"ible", "", 2}, {"ant", "", 2},  {"ement", "", 2}, {"ment", "", 2}, {"ent", "", 2}, {"ou", "", 2},
        {"ism", "", 2},  {"ate", "", 2},  {"iti", "", 2},   {"ous", "", 2},  {"ive", "", 2}, {"ize", "", 2},
    };
    if (ends(w, "ion")) {
        if (measure(w->s, w->n - 3) > 1 && strchr("st", w->s[w->n - 4])) w->n -= 3;
        return;
    }
    apply(w, rules, GR_COUNT(rules));
}

/* A final e, and ll. */
static void step5(word *w) {
    if (ends(w, "e")) {
        word stem = {w->s, w->n - 1};
        size_t m = measure(stem.s, stem.n);
        if (m > 1 || (m == 1 && !ends_cvc(&stem))) w->n--;
    }
    if (ends(w, "ll") && measure(w->s, w->n - 1) > 1) w->n--;
}

static const struct { const char *form, *stem; } irregular[] = {
    {"sky", "sky"},       {"skies", "sky"},       {"dying", "die"},     {"lying", "lie"},     {"tying", "tie"},
    {"news", "news"},     {"innings", "inning"},  {"inning", "inning"}, {"outings", "outing"}, {"outing", "outing"},
    {"cannings", "canning"}, {"canning", "canning"}, {"howe", "howe"},  {"proceed", "proceed"}, {"exceed", "exceed"},
    {"succeed", "succeed"},
};

size_t gr_porter_stem(char *text, size_t n) {
    word w = {text, n};
    for (size_t i = 0; i < GR_COUNT(irregular); i++)
        if (strlen(irregular[i].form) == n && memcmp(irregular[i].form, text, n) == 0) {
            w.n = strlen(irregular[i].stem);
            memcpy(text, irregular[i].stem, w.n);
            return w.n;
        }
    if (n <= 2) return n;
    step1a(&w);
    step1b(&w);
    step1c(&w);
    step2(&w);
    step3(&w);
    step4(&w);
    step5(&w);
    return w.n;
}
