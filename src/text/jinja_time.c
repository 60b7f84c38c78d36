/* strftime_now: the formatting of Python's datetime.now().strftime, in the C locale. */
#define _GNU_SOURCE /* newlocale, strftime_l */
#include <locale.h>
#include <time.h>

#include "text/jinja_run.h"

/* One directive "%...": flags, then the letter, as the C library formats it; what a naive datetime knows nothing
 * about (%z, %Z) is empty and microseconds are zero. */
static void add_directive(gr_buf *to, locale_t c, const char *directive, size_t n, const struct tm *when) {
    char format[16], text[128];
    char letter = directive[n - 1];
    if (letter == 'z' || letter == 'Z') return;
    if (letter == 'f') {
        gr_buf_add_text(to, "000000");
        return;
    }
    memcpy(format, directive, n);
    format[n] = '\0';
    gr_buf_add(to, text, strftime_l(text, sizeof text, format, when, c));
}

graft_status gr_j_strftime(gr_jrun *run, const gr_jstr *format, gr_jv *out) {
    struct tm when = run->now;
    if (!run->has_now) {
        time_t seconds = time(NULL);
        if (!localtime_r(&seconds, &when)) return gr_j_raise(run, "the system clock has no local time");
    }
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c) return gr_fail_memory(run->err);
    size_t mark = gr_j_mark(run);
    for (size_t i = 0; i < format->len;) {
        size_t n = 1;
        if (format->p[i] == '%') {
            while (i + n < format->len && n < 6 && strchr("-_0^#", format->p[i + n]) && format->p[i + n]) n++;
            if (i + n < format->len && n < 6) {
                add_directive(&run->scratch, c, format->p + i, n + 1, &when);
                i += n + 1;
                continue;
            }
        }
        gr_buf_add(&run->scratch, format->p + i, 1);
        i++;
    }
    freelocale(c);
    return gr_j_take(run, mark, out);
}
