/*
 * A guest that lets only known users pass: Basic authentication (RFC 7617).
 *
 * The configuration has a line for each user, as users.py writes it, and may name the realm. Empty lines, and those that
 * begin with "#", do not count:
 *
 *     realm Staff only
 *     alice:200000:6d5a0c…:94f1c3…
 *
 * These are name, iterations, salt and hash: PBKDF2 with HMAC-SHA-256, salt and hash in hexadecimal digits. There may be
 * 256 users, 1,000 to 10,000,000 iterations, and salts of 8 to 64 bytes.
 *
 * The iterations are what it costs to try a password: for those who have stolen the file, but also for this guest. Half
 * a million of them take most of a second of a core, which is the default of http_wasm_timeout. The guest remembers the
 * passwords that were right (not themselves, but a hash with a key that is drawn when the instance serves its first
 * request), so only wrong ones cost that much each time. Limit how many a client may try (limit_req), give all users the
 * same number of iterations, and keep http_wasm_isolation at worker: an instance for each request remembers nothing.
 *
 * The next handler gets Authorization as it came. nginx's $remote_user is the name.
 */

#include <stddef.h>

#include "http_wasm.h"
#include "sha256.h"

enum { USERS = 256, NAME = 256, SALT = 64, CREDENTIALS = 512, REMEMBERED = 16 };

__attribute__((import_module("wasi_snapshot_preview1"), import_name("random_get")))
uint32_t random_get(void *buf, uint32_t len);

typedef struct {
    const char *name;
    uint32_t name_len, iterations, salt_len;
    uint8_t salt[SALT], hash[SHA256_SIZE];
} user_t;

static char config[64 * 1024];
static char challenge[256] = "Basic realm=\"";
static uint32_t challenge_len;
static user_t users[USERS];
static uint32_t n_users;

static hmac_t memory_key;
static uint32_t has_memory_key;
static uint8_t remembered[REMEMBERED][SHA256_SIZE];
static uint32_t n_remembered;

/* Takes as long for all bytes as for one that differs. */
static uint32_t
equal(const uint8_t *a, const uint8_t *b, uint32_t len)
{
    uint8_t differ = 0;

    for (uint32_t i = 0; i < len; i++) {
        differ |= a[i] ^ b[i];
    }

    return differ == 0;
}

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
    uint32_t at = sizeof(digit), n = append(text, 0, sizeof(text), STR("basic-auth: "));

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

static int
hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* How many bytes the hexadecimal digits are, 0 for what is none or too long. */
static uint32_t
unhex(const char *p, const char *end, uint8_t *out, uint32_t limit)
{
    uint32_t n = 0;

    if ((end - p) % 2 || (uint32_t) (end - p) / 2 > limit) {
        return 0;
    }
    for (; p < end; p += 2) {
        if (hex(p[0]) < 0 || hex(p[1]) < 0) {
            return 0;
        }
        out[n++] = (uint8_t) (hex(p[0]) << 4 | hex(p[1]));
    }

    return n;
}

/* NAME:ITERATIONS:SALT:HASH; 0 if it is not. */
static uint32_t
read_user(const char *p, const char *end, user_t *user)
{
    const char *part[4] = { p };
    uint32_t colons = 0;

    for (const char *q = p; q < end; q++) {
        if (*q == ':') {
            if (++colons > 3) {
                return 0;
            }
            part[colons] = q + 1;
        }
    }
    if (colons != 3 || part[1] - part[0] - 1 > NAME) {
        return 0;
    }
    user->name = p;
    user->name_len = (uint32_t) (part[1] - part[0] - 1);
    user->iterations = 0;
    for (const char *q = part[1]; q < part[2] - 1; q++) {
        if (*q < '0' || *q > '9' || user->iterations > 10000000) {
            return 0;
        }
        user->iterations = user->iterations * 10 + (uint32_t) (*q - '0');
    }
    user->salt_len = unhex(part[2], part[3] - 1, user->salt, SALT);

    return user->name_len > 0 && user->iterations >= 1000 && user->iterations <= 10000000 && user->salt_len >= 8
        && unhex(part[3], end, user->hash, SHA256_SIZE) == SHA256_SIZE;
}

/* The rest of the challenge; 0 for a realm that would end its quotes, or is too long. */
static uint32_t
set_realm(const char *p, const char *end)
{
    static const char rest[] = "\", charset=\"UTF-8\"";
    uint32_t n = sizeof("Basic realm=\"") - 1;

    if (p == end || (uint32_t) (end - p) > sizeof(challenge) - n - sizeof(rest)) {
        return 0;
    }
    for (; p < end; p++) {
        if (*p == '"' || *p == '\\' || *p < ' ' || *p > '~') {
            return 0;
        }
        challenge[n++] = *p;
    }
    for (p = rest; *p; p++) {
        challenge[n++] = *p;
    }
    challenge_len = n;

    return 1;
}

EXPORT(_initialize)
void
initialize(void)
{
    static const char word[] = "realm ", name[] = "restricted";
    uint32_t len = get_config(config, sizeof(config)), line = 1;

    if (len > sizeof(config)) {
        refuse(0, STR("expected a configuration of up to 64 kB"));
    }
    set_realm(name, name + sizeof(name) - 1);

    for (const char *p = config, *last = config + len, *next; p < last; p = next, line++) {
        const char *end = p;
        uint32_t n = 0;

        while (end < last && *end != '\n') {
            end++;
        }
        next = end + 1;
        while (end > p && (end[-1] == '\r' || end[-1] == ' ')) {
            end--;
        }
        if (p == end || *p == '#') {
            continue;
        }
        while (n < sizeof(word) - 1 && p + n < end && p[n] == word[n]) {
            n++;
        }
        if (n == sizeof(word) - 1) {
            if (!set_realm(p + n, end)) {
                refuse(line, STR("expected \"realm TEXT\" of up to 200 printable characters, without \" and \\"));
            }
        } else if (n_users == USERS || !read_user(p, end, &users[n_users++])) {
            refuse(line, STR("expected NAME:ITERATIONS:SALT:HASH as users.py writes it, for up to 256 users"));
        }
    }
    if (n_users == 0) {
        refuse(0, STR("expected at least one user, NAME:ITERATIONS:SALT:HASH as users.py writes it"));
    }
}

/*
 * How many bytes base64 (RFC 4648) stands for; 0 for what is none, is too long, or has control characters. These cannot be
 * in credentials (RFC 7617, 2), and HMAC does not see zeros at the end of a password.
 */
static uint32_t
unbase64(const char *p, const char *end, uint8_t *out, uint32_t limit)
{
    uint32_t n = 0, bits = 0, value = 0;

    if ((end - p) % 4) {
        return 0;
    }
    for (uint32_t pad = 0; pad < 2 && end > p && end[-1] == '='; pad++) {
        end--;
    }
    for (; p < end; p++) {
        char c = *p;
        int digit = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26
            : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
        if (digit < 0) {
            return 0;
        }
        value = value << 6 | (uint32_t) digit;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            uint8_t byte = (uint8_t) (value >> bits);
            if (n == limit || byte < ' ' || byte == 0x7f) {
                return 0;
            }
            out[n++] = byte;
        }
    }

    return n;
}

/* Whether these are the name and the password of a user. */
static uint32_t
is_known(const uint8_t *credentials, uint32_t len)
{
    uint8_t tag[SHA256_SIZE], key[SHA256_SIZE];
    uint32_t colon = 0, known = 0;
    const user_t *user = NULL;

    /* Not at the start: all instances may begin with one snapshot of it. */
    if (!has_memory_key) {
        if (random_get(key, sizeof(key)) != 0) {
            __builtin_trap();
        }
        hmac_start(&memory_key, key, sizeof(key));
        has_memory_key = 1;
    }
    hmac(&memory_key, credentials, len, credentials, 0, tag);
    for (uint32_t i = 0; i < REMEMBERED && i < n_remembered; i++) {
        known |= equal(tag, remembered[i], SHA256_SIZE);
    }
    if (known) {
        return 1;
    }

    while (colon < len && credentials[colon] != ':') {
        colon++;
    }
    if (colon == len) {
        return 0;
    }
    for (uint32_t i = 0; i < n_users; i++) {
        if (users[i].name_len == colon && equal((const uint8_t *) users[i].name, credentials, colon)) {
            user = &users[i];
            break;
        }
    }
    /* A name that nobody has takes as long as a wrong password. */
    known = user != NULL;
    if (!known) {
        user = &users[0];
    }
    pbkdf2(credentials + colon + 1, len - colon - 1, user->salt, user->salt_len, user->iterations, key);
    known &= equal(key, user->hash, SHA256_SIZE);
    if (known) {
        for (uint32_t i = 0; i < SHA256_SIZE; i++) {
            remembered[n_remembered % REMEMBERED][i] = tag[i];
        }
        /* Past the first round all places are taken, and stay so. */
        n_remembered = n_remembered + 1 < 2 * REMEMBERED ? n_remembered + 1 : REMEMBERED;
    }

    return known;
}

EXPORT(handle_request)
uint64_t
handle_request(void)
{
    static const char scheme[] = "basic ";
    static char value[CREDENTIALS * 4 / 3 + 16];
    static uint8_t credentials[CREDENTIALS];
    uint32_t n = 0, len = 0, known = 0;

    uint64_t count_len = get_header_values(REQUEST, STR("authorization"), value, sizeof(value));

    /* Nothing is written when it is longer. Of several nobody knows which one others go by. */
    if (count_len >> 32 == 1 && (uint32_t) count_len <= sizeof(value)) {
        const char *p = value, *end = value + (uint32_t) count_len - 1;
        while (n < sizeof(scheme) - 1 && p < end && (*p == scheme[n] || (*p | 0x20) == scheme[n])) {
            n++, p++;
        }
        while (p < end && *p == ' ') {
            p++;
        }
        if (n == sizeof(scheme) - 1) {
            len = unbase64(p, end, credentials, sizeof(credentials));
            known = len > 0 && is_known(credentials, len);
        }
    }
    /* Passwords do not stay in memory for longer than they are needed. */
    for (uint32_t i = 0; i < sizeof(value); i++) {
        ((volatile char *) value)[i] = 0;
    }
    for (uint32_t i = 0; i < len; i++) {
        ((volatile uint8_t *) credentials)[i] = 0;
    }
    if (known) {
        return 1;
    }

    set_status_code(401);
    set_header_value(RESPONSE, STR("www-authenticate"), challenge, challenge_len);

    return 0;
}

EXPORT(handle_response)
void
handle_response(uint32_t req_ctx, uint32_t is_error)
{
    (void) req_ctx;
    (void) is_error;
}
