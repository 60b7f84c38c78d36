/* Messages keep their JSON text as it was written, so that a template sees tool arguments, numbers and unknown fields
 * unchanged; only null members go (a template that tests for a key must not find it) and ShareGPT's words are
 * translated. */
#include "data/record.h"

static const struct { const char *from, *role; } roles[] = {
    {"human", "user"},           {"gpt", "assistant"},   {"chatgpt", "assistant"},  {"bing", "assistant"},
    {"bard", "assistant"},       {"model", "assistant"}, {"ai", "assistant"},       {"function_call", "assistant"},
    {"function_response", "tool"}, {"observation", "tool"},
};
static const char *const media[] = {"image", "image_url", "input_image", "video", "video_url", "audio", "audio_url",
                                    "input_audio"};

/* A growing text in memory that is known to be large enough. */
typedef struct writer {
    char *text;
    size_t n;
} writer;

static void put(writer *w, const char *text, size_t n) {
    memcpy(w->text + w->n, text, n);
    w->n += n;
}

static graft_status refuse_media(const char *place, gr_json_reader r, graft_error *err) {
    bool more;
    GR_TRY(gr_json_open(&r, GR_JSON_ARRAY, err));
    for (;;) {
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) return GRAFT_OK;
        if (gr_json_peek(&r) != GR_JSON_OBJECT) {
            GR_TRY(gr_json_skip(&r, err));
            continue;
        }
        bool member;
        GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
        for (;;) {
            gr_json_text key, type;
            GR_TRY(gr_json_next(&r, &member, err));
            if (!member) break;
            GR_TRY(gr_json_read_key(&r, &key, err));
            if (!gr_json_text_is(&key, "type") || gr_json_peek(&r) != GR_JSON_STRING) {
                GR_TRY(gr_json_skip(&r, err));
                continue;
            }
            GR_TRY(gr_json_read_text(&r, &type, err));
            for (size_t i = 0; i < GR_COUNT(media); i++)
                if (gr_json_text_is(&type, media[i]))
                    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                                   "%s: a message holds a part of type \"%s\", expected text", place,
                                   media[i]);
        }
    }
}

static graft_status read_string(gr_arena *arena, gr_json_reader *r, gr_slice *out, graft_error *err) {
    gr_json_text text;
    GR_TRY(gr_json_read_text(r, &text, err));
    char *copy = gr_arena_alloc(arena, text.len + 1);
    if (!copy) return gr_fail_memory(err);
    *out = (gr_slice){copy, gr_json_unescape(&text, copy)};
    return GRAFT_OK;
}

static const char *translate(gr_slice role) {
    for (size_t i = 0; i < GR_COUNT(roles); i++)
        if (strlen(roles[i].from) == role.len && memcmp(roles[i].from, role.data, role.len) == 0) return roles[i].role;
    return NULL;
}

/* One member that is not null: its key stands in `key`, the reader before its value. */
static graft_status read_member(gr_arena *arena, const char *place, gr_json_reader *r, const gr_json_text *key,
                                writer *w, gr_message *m, graft_error *err) {
    bool from = gr_json_text_is(key, "from"), role = from || gr_json_text_is(key, "role");
    bool value = gr_json_text_is(key, "value"), content = value || gr_json_text_is(key, "content");
    if (w->n > 1) put(w, ", ", 2);
    if (role || content) {
        put(w, role ? "\"role\": " : "\"content\": ", role ? 8 : 11);
    } else {
        put(w, key->raw - 1, key->len + 2);
        put(w, ": ", 2);
    }
    gr_json_kind kind = gr_json_peek(r);
    size_t start = r->at;
    if (role) {
        if (kind != GR_JSON_STRING)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected the role of a message to be a string, found %s", place,
                           gr_json_kind_name(kind));
        GR_TRY(read_string(arena, r, &m->role, err));
        const char *known = from ? translate(m->role) : NULL;
        if (known) {
            m->role = (gr_slice){known, strlen(known)};
            put(w, "\"", 1);
            put(w, known, m->role.len);
            put(w, "\"", 1);
            return GRAFT_OK;
        }
    } else if (content) {
        m->content = (gr_slice){0};
        if (kind == GR_JSON_ARRAY) GR_TRY(refuse_media(place, *r, err));
        if (kind == GR_JSON_STRING) GR_TRY(read_string(arena, r, &m->content, err));
        else GR_TRY(gr_json_skip(r, err));
        m->content_at = w->n;
        m->content_len = r->at - start;
    } else {
        GR_TRY(gr_json_skip(r, err));
    }
    put(w, r->text + start, r->at - start);
    return GRAFT_OK;
}

static graft_status read_message(gr_arena *arena, const char *place, const char *name, gr_json_reader *r,
                                 gr_message *out, graft_error *err) {
    gr_json_kind kind = gr_json_peek(r);
    if (kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected \"%s\" to hold messages (objects), found %s", place, name,
                       gr_json_kind_name(kind));
    gr_json_reader ahead = *r;
    GR_TRY(gr_json_skip(&ahead, err));
    /* A member of at least 4 characters becomes at most twice as long ("from": "ai" grows to "role": "assistant"). */
    size_t room = 2 * (ahead.at - r->at) + 64;
    writer w = {gr_arena_alloc(arena, room), 0};
    if (!w.text) return gr_fail_memory(err);
    gr_message m = {0};
    put(&w, "{", 1);
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (;;) {
        bool more;
        gr_json_text key;
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(r, &key, err));
        if (gr_json_peek(r) == GR_JSON_NULL) GR_TRY(gr_json_skip(r, err));
        else GR_TRY(read_member(arena, place, r, &key, &w, &m, err));
    }
    put(&w, "}", 1);
    if (!m.role.data || m.role.len == 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: a message of \"%s\" has no role", place, name);
    m.json = (gr_slice){w.text, w.n};
    *out = m;
    return GRAFT_OK;
}

graft_status gr_messages_parse(gr_arena *arena, const char *place, const char *name, gr_slice value, gr_turns *out,
                               graft_error *err) {
    gr_json_reader r, counter;
    bool more;
    size_t n = 0;
    gr_json_init(&r, place, value.data, value.len);
    GR_TRY(gr_json_open(&r, GR_JSON_ARRAY, err));
    counter = r;
    for (;; n++) {
        GR_TRY(gr_json_next(&counter, &more, err));
        if (!more) break;
        GR_TRY(gr_json_skip(&counter, err));
    }
    if (n == 0) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected at least one message in \"%s\"", place, name);
    /* `{"role":"a"}` is the shortest message, so that a record cannot ask for much more memory than it has bytes. */
    if (n > value.len / 12)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected \"%s\" to hold messages with a role", place, name);
    gr_message *items = gr_arena_alloc(arena, n * sizeof *items);
    if (!items) return gr_fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        GR_TRY(gr_json_next(&r, &more, err));
        GR_TRY(read_message(arena, place, name, &r, &items[i], err));
    }
    *out = (gr_turns){.messages = items, .n = n};
    return GRAFT_OK;
}

graft_status gr_message_make(gr_arena *arena, const char *role, gr_slice content, gr_message *out, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, arena->a);
    gr_buf_add_format(&b, "{\"role\": \"%s\", \"content\": ", role);
    size_t at = b.len;
    gr_json_add_text(&b, content.data, content.len);
    size_t len = b.len - at;
    gr_buf_add_char(&b, '}');
    graft_status st = gr_buf_status(&b, err);
    char *copy = st == GRAFT_OK ? gr_arena_strndup(arena, b.data, b.len) : NULL;
    size_t n = b.len;
    gr_buf_free(&b);
    if (st != GRAFT_OK) return st;
    if (!copy) return gr_fail_memory(err);
    *out = (gr_message){.role = {role, strlen(role)},
                        .content = content,
                        .json = {copy, n},
                        .content_at = at,
                        .content_len = len};
    return GRAFT_OK;
}
