/* Room io: the Hub client: what is wrong is refused and named. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/hub.h"
#include "support/hub_world.h"

static void wrong_hashes_are_refused(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    char at[1300];
    hub_world_start(&w, "hash");
    w.wrong_content = true;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "model.safetensors of org/tiny: expected SHA-256"));
    assert_false(gr_path_exists(hub_blob_path(&w, "")));
    assert_false(gr_path_exists(hub_blob_path(&w, ".incomplete")));
    snprintf(at, sizeof at, "%s/models--org--tiny/refs/main", w.cache);
    assert_false(gr_path_exists(at));
    w.wrong_content = false;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    hub_world_stop(&w);
}

static void answers_are_explained(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *code;
        graft_status st;
        const char *says;
    } cases[] = {
        {401, NULL, GRAFT_ERR_NETWORK, "denies access (status 401): check the access token"},
        {401, "RepoNotFound", GRAFT_ERR_NOT_FOUND, "has no such model"},
        {403, "GatedRepo", GRAFT_ERR_NETWORK, "accept the model's terms"},
        {403, NULL, GRAFT_ERR_NETWORK, "status 403"},
        {404, NULL, GRAFT_ERR_NOT_FOUND, "has no such model"},
        {404, "RevisionNotFound", GRAFT_ERR_NOT_FOUND, "org/tiny: has no revision main"},
        {500, NULL, GRAFT_ERR_NETWORK, "answered with status 500"},
        {429, NULL, GRAFT_ERR_NETWORK, "answered with status 429"},
        {302, NULL, GRAFT_ERR_NETWORK, "answered with status 302"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        hub_world w;
        graft_error failure;
        hub_world_start(&w, "answers");
        w.status = cases[i].status;
        w.error_code = cases[i].code;
        graft_status st = hub_get(&w, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].says))
            fail_msg("case %zu: %s: %s", i, graft_status_text(st), failure.text);
        assert_null(strstr(failure.text, "secret"));
        hub_world_stop(&w);
    }
}

static void hostile_answers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *list;
        graft_status st;
        const char *says;
    } cases[] = {
        {HUB_LIST("../../evil.json"), GRAFT_ERR_FORMAT, "unsafe name: \"../../evil.json\""},
        {HUB_LIST("/etc/x.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST("a/../b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST("a//b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST(".."), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST(""), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST("a\\\\b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST("a\\u0000.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {HUB_LIST("a\\n.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {"{\"sha\":\"../../x\",\"siblings\":[]}", GRAFT_ERR_FORMAT, "no list of files"},
        {"{\"siblings\":[]}", GRAFT_ERR_FORMAT, "no list of files"},
        {"[]", GRAFT_ERR_FORMAT, "no list of files"},
        {"<html>", GRAFT_ERR_FORMAT, "JSON at byte 0"},
        {HUB_LIST("pytorch_model.bin"), GRAFT_ERR_UNSUPPORTED, "expected safetensors or GGUF"},
        {"{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":[]}", GRAFT_ERR_NOT_FOUND, "no file"},
        {HUB_LIST("a.gguf\"},{\"rfilename\":\"b.gguf"), GRAFT_ERR_ARGUMENT, "several .gguf files (a.gguf, b.gguf"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        hub_world w;
        graft_error failure;
        hub_world_start(&w, "hostile");
        w.list = cases[i].list;
        graft_status st = hub_get(&w, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].list, graft_status_text(st), failure.text);
        hub_world_stop(&w);
    }
    hub_world w;
    graft_error failure;
    hub_world_start(&w, "hostile2");
    w.loop = true;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_non_null(strstr(failure.text, "too many redirects"));
    w.loop = false;
    w.bad_etag = true;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "plain ETag"));
    w.bad_etag = false;
    w.other_commit = true;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected commit"));
    hub_world_stop(&w);
}

static void names_are_checked(void **state) {
    (void)state;
    static const char *const good[] = {"gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a_b/c.d-e", "0/1"};
    static const char *const bad[] = {"",       "/",    "a/",   "/a",  "a/b/c",      "../x", "a/..",    "a b",
                                      "a/b--c", "-a/b", "a/b.", "./a", "a/\xC3\xA4", "a\\b", "~/model", "a/b\n"};
    for (size_t i = 0; i < GR_COUNT(good); i++) assert_true(gr_hub_valid_name(good[i]));
    for (size_t i = 0; i < GR_COUNT(bad); i++)
        if (gr_hub_valid_name(bad[i])) fail_msg("%s was accepted", bad[i]);
    hub_world w;
    char *path;
    graft_error failure;
    hub_world_start(&w, "names");
    assert_int_equal(graft_hub_download(w.ctx, "../../x", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    w.options.revision = "../../x";
    assert_int_equal(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    w.options.revision = "refs/pr/1";
    assert_ok(hub_get(&w, &err));
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    hub_world_stop(&w);
}

static void full_disks_and_wrong_places_are_named(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    char at[1100];
    hub_world_start(&w, "blocked");
    snprintf(at, sizeof at, "%s/file", test_temp_dir());
    assert_ok(gr_write_file(NULL, at, "x", 1, &err));
    w.options.cache_dir = at;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_IO);
    assert_non_null(strstr(failure.text, at));
    w.options.cache_dir = w.cache;
    struct rlimit old, small = {.rlim_cur = 65536};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    graft_status st = hub_get(&w, &failure);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(st, GRAFT_ERR_IO);
    assert_non_null(strstr(failure.text, "incomplete: cannot write: File too large"));
    assert_ok(hub_get(&w, &err)); /* with room again it goes on */
    hub_check_large(&w);
    assert_non_null(strstr(w.ranges, "bytes=65536-"));
    hub_world_stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_hashes_are_refused),
        cmocka_unit_test(answers_are_explained),
        cmocka_unit_test(hostile_answers_are_refused),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(full_disks_and_wrong_places_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
