/* A guest that answers /teapot itself and marks the response to everything else. */

#include "http_wasm.h"

static const char path[] = "/teapot";

/* There is no libc to take memcmp from. */
static int
is_teapot(const char *uri, uint32_t len)
{
    if (len < sizeof(path) - 1) {
        return 0;
    }

    for (uint32_t i = 0; i < sizeof(path) - 1; i++) {
        if (uri[i] != path[i]) {
            return 0;
        }
    }

    return len == sizeof(path) - 1 || uri[sizeof(path) - 1] == '?';
}

EXPORT(handle_request)
uint64_t
handle_request(void)
{
    static char uri[256];

    /* Nothing is written when the URI is longer, and then it is another one. */
    uint32_t len = get_uri(uri, sizeof(uri));

    set_header_value(RESPONSE, STR("x-guest"), STR("c-teapot"));

    if (len > sizeof(uri) || !is_teapot(uri, len)) {
        return 1;
    }

    set_header_value(RESPONSE, STR("content-type"), STR("text/plain"));
    set_status_code(418);
    write_body(RESPONSE, STR("short and stout\n"));

    return 0;
}

EXPORT(handle_response)
void
handle_response(uint32_t req_ctx, uint32_t is_error)
{
    (void) req_ctx;
    (void) is_error;
}
