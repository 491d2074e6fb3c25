/*
 * A guest that gives every response the headers which tell browsers what a site does not do, and takes headers away that
 * tell too much. It does so for pages of nginx and for errors, too.
 *
 * The configuration has up to 64 lines. Empty lines, and those that begin with "#", do not count:
 *
 *     NAME: VALUE     sets the header; what the response has under this name goes
 *     ?NAME: VALUE    sets the header if the response has none
 *     -NAME           removes the header
 *
 * Without a configuration it is what DEFAULTS says below. Strict-Transport-Security is not among it: for as long as it
 * says, browsers do not come back over plain HTTP. Where a whole site is served over TLS, add:
 *
 *     Strict-Transport-Security: max-age=31536000
 *
 * nginx's add_header comes before guests, and its lines can be removed and replaced like others. Responses of nginx's
 * rewrite module (return, rewrite … permanent) do not pass through guests.
 */

#include "http_wasm.h"

static const char DEFAULTS[] =
    "X-Content-Type-Options: nosniff\n"
    "?X-Frame-Options: SAMEORIGIN\n"
    "?Content-Security-Policy: base-uri 'self'; frame-ancestors 'self'; object-src 'none'\n"
    "?Referrer-Policy: strict-origin-when-cross-origin\n"
    "?Permissions-Policy: camera=(), geolocation=(), microphone=()\n"
    "-X-Powered-By\n";

enum { RULES = 64 };

typedef enum { SET, SET_IF_NONE, REMOVE } action_t;

typedef struct {
    action_t action;
    const char *name, *value;
    uint32_t name_len, value_len;
} rule_t;

static char config[16 * 1024];
static rule_t rules[RULES];
static uint32_t n_rules;

static uint32_t
append(char *text, uint32_t n, uint32_t limit, const char *part, uint32_t len)
{
    for (uint32_t i = 0; i < len && n < limit; i++) {
        text[n++] = part[i];
    }

    return n;
}

/* Refuses the configuration because of a line; because of all of it with 0. */
static _Noreturn void
refuse(uint32_t line, const char *why, uint32_t len)
{
    char text[160], digit[10];
    uint32_t at = sizeof(digit), n = append(text, 0, sizeof(text), STR("security-headers: "));

    if (line) {
        for (; line; line /= 10) {
            digit[--at] = (char) ('0' + line % 10);
        }
        n = append(text, n, sizeof(text), STR("line "));
        n = append(text, n, sizeof(text), digit + at, sizeof(digit) - at);
        n = append(text, n, sizeof(text), STR(": "));
    }
    host_log(LOG_ERROR, text, append(text, n, sizeof(text), why, len));
    __builtin_trap();
}

static uint32_t
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* What a name is made of (RFC 9110, 5.6.2). */
static uint32_t
is_token(char c)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')) {
        return 1;
    }
    for (const char *p = others; *p; p++) {
        if (c == *p) {
            return 1;
        }
    }

    return 0;
}

/* A line without blanks at its ends, and without a comment; 0 if it is no rule. */
static uint32_t
read_rule(const char *p, const char *end, rule_t *rule)
{
    rule->action = *p == '?' ? SET_IF_NONE : *p == '-' ? REMOVE : SET;
    if (rule->action != SET) {
        p++;
    }
    rule->name = p;
    while (p < end && is_token(*p)) {
        p++;
    }
    rule->name_len = (uint32_t) (p - rule->name);
    if (rule->name_len == 0) {
        return 0;
    }
    if (rule->action == REMOVE) {
        return p == end;
    }
    if (p == end || *p++ != ':') {
        return 0;
    }
    while (p < end && is_blank(*p)) {
        p++;
    }
    rule->value = p;
    rule->value_len = (uint32_t) (end - p);
    for (; p < end; p++) {
        if ((uint8_t) *p < ' ' || *p == 0x7f) {
            return 0;
        }
    }

    return rule->value_len > 0;
}

EXPORT(_initialize)
void
initialize(void)
{
    uint32_t len = get_config(config, sizeof(config)), line = 1;
    const char *p = config, *last = config + len;

    if (len > sizeof(config)) {
        refuse(0, STR("expected a configuration of up to 16 kB"));
    }
    if (len == 0) {
        p = DEFAULTS;
        last = DEFAULTS + sizeof(DEFAULTS) - 1;
    }
    for (const char *next; p < last; p = next, line++) {
        const char *end = p;

        while (end < last && *end != '\n') {
            end++;
        }
        next = end + 1;
        while (p < end && is_blank(*p)) {
            p++;
        }
        while (end > p && is_blank(end[-1])) {
            end--;
        }
        if (p == end || *p == '#') {
            continue;
        }
        if (n_rules == RULES || !read_rule(p, end, &rules[n_rules++])) {
            refuse(line, STR("expected NAME: VALUE, ?NAME: VALUE or -NAME, in up to 64 lines"));
        }
    }
    if (n_rules == 0) {
        refuse(0, STR("expected at least one of NAME: VALUE, ?NAME: VALUE and -NAME"));
    }
}

EXPORT(handle_request)
uint64_t
handle_request(void)
{
    return 1;
}

EXPORT(handle_response)
void
handle_response(uint32_t req_ctx, uint32_t is_error)
{
    (void) req_ctx;
    if (is_error) {
        return;
    }
    for (const rule_t *rule = rules; rule < rules + n_rules; rule++) {
        if (rule->action == REMOVE) {
            remove_header(RESPONSE, rule->name, rule->name_len);
        } else if (rule->action == SET || get_header_values(RESPONSE, rule->name, rule->name_len, 0, 0) == 0) {
            set_header_value(RESPONSE, rule->name, rule->name_len, rule->value, rule->value_len);
        }
    }
}
