/*
 * What Rust cannot say about nginx's structures: bit-fields, macros, and fields that differ between
 * versions. bindgen 0.72 puts the bit-fields of ngx_http_request_t two bytes off for nginx >= 1.29.3
 * and nothing fails to compile, so every bit is read and written here, against the real headers.
 * The table at the end lets the Rust side compare its idea of the layout when the module is loaded.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include <stddef.h>


#define GET(type, name, field)                                                \
    ngx_uint_t ngx_http_wasm_##name(const type *p) { return p->field; }

#define SET(type, name, field)                                                \
    void ngx_http_wasm_set_##name(type *p, ngx_uint_t v) { p->field = v; }


GET(ngx_http_request_t, r_internal, internal)
GET(ngx_http_request_t, r_header_only, header_only)
GET(ngx_http_request_t, r_valid_unparsed_uri, valid_unparsed_uri)
GET(ngx_http_request_t, r_valid_location, valid_location)
GET(ngx_http_request_t, r_quoted_uri, quoted_uri)
GET(ngx_http_request_t, r_uri_changed, uri_changed)
GET(ngx_http_request_t, r_count, count)
GET(ngx_connection_t, c_buffered, buffered)
GET(ngx_event_t, ev_ready, ready)
GET(ngx_event_t, ev_timer_set, timer_set)
GET(ngx_buf_t, b_in_file, in_file)
GET(ngx_buf_t, b_flush, flush)
GET(ngx_buf_t, b_last_buf, last_buf)

SET(ngx_http_request_t, r_main_filter_need_in_memory, main_filter_need_in_memory)
SET(ngx_http_request_t, r_filter_need_in_memory, filter_need_in_memory)
SET(ngx_http_request_t, r_allow_ranges, allow_ranges)
SET(ngx_http_request_t, r_single_range, single_range)
SET(ngx_http_request_t, r_valid_unparsed_uri, valid_unparsed_uri)
SET(ngx_http_request_t, r_valid_location, valid_location)
SET(ngx_http_request_t, r_quoted_uri, quoted_uri)
SET(ngx_http_request_t, r_empty_path_in_uri, empty_path_in_uri)
SET(ngx_http_request_t, r_uri_changed, uri_changed)
SET(ngx_http_request_t, r_preserve_body, preserve_body)
SET(ngx_http_request_t, r_expect_trailers, expect_trailers)
SET(ngx_http_headers_in_t, in_chunked, chunked)
SET(ngx_connection_t, c_buffered, buffered)
SET(ngx_event_t, ev_cancelable, cancelable)
SET(ngx_buf_t, b_memory, memory)
SET(ngx_buf_t, b_in_file, in_file)
SET(ngx_buf_t, b_last_buf, last_buf)
SET(ngx_buf_t, b_last_in_chain, last_in_chain)
SET(ngx_output_chain_ctx_t, out_need_in_memory, need_in_memory)


ngx_uint_t
ngx_http_wasm_b_in_memory(const ngx_buf_t *b)
{
    return ngx_buf_in_memory(b);
}


void
ngx_http_wasm_add_timer(ngx_event_t *ev, ngx_msec_t time)
{
    ngx_add_timer(ev, time);
}


void
ngx_http_wasm_del_timer(ngx_event_t *ev)
{
    if (ev->timer_set) {
        ngx_del_timer(ev);
    }
}


void
ngx_http_wasm_post_event(ngx_event_t *ev)
{
    ngx_post_event(ev, &ngx_posted_events);
}


/* The next turn of the event loop: sockets and timers are served before the event runs. */

void
ngx_http_wasm_post_next_event(ngx_event_t *ev)
{
    ngx_post_event(ev, &ngx_posted_next_events);
}


void
ngx_http_wasm_delete_posted_event(ngx_event_t *ev)
{
    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }
}


/* An upstream that went away in the middle of a body (nginx says it only by a flush). */

ngx_uint_t
ngx_http_wasm_upstream_gone(const ngx_http_request_t *r)
{
    return r->upstream != NULL && r->upstream->cleanup == NULL
           && r->upstream->header_sent;
}


/*
 * Ends an upstream that is still at work on the request, as ngx_http_upstream_create() does: the
 * cleanup handler gives up a reference, and the one that the upstream had is the caller's then.
 */

ngx_uint_t
ngx_http_wasm_end_upstream(ngx_http_request_t *r)
{
    if (r->upstream == NULL || r->upstream->cleanup == NULL) {
        return 0;
    }

    r->main->count++;
    (*r->upstream->cleanup)(r);

    return 1;
}


/*
 * Known request headers. Points the slot at headers_in + offset to h, as the handlers of
 * ngx_http_headers_in[] do, without their side effects (they finalize the request on duplicates).
 */

ngx_int_t
ngx_http_wasm_link_request_header(ngx_http_request_t *r, ngx_uint_t offset,
    ngx_uint_t multi, ngx_table_elt_t *h)
{
    ngx_table_elt_t  **ph;

#if (nginx_version < 1023000)

    ngx_array_t       *headers;

    if (multi) {
        headers = (ngx_array_t *) ((u_char *) &r->headers_in + offset);

        if (headers->elts == NULL
            && ngx_array_init(headers, r->pool, 1, sizeof(ngx_table_elt_t *))
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        ph = ngx_array_push(headers);
        if (ph == NULL) {
            return NGX_ERROR;
        }

        *ph = h;
        return NGX_OK;
    }

    ph = (ngx_table_elt_t **) ((u_char *) &r->headers_in + offset);

    if (*ph == NULL) {
        *ph = h;
    }

#else

    (void) multi;

    ph = (ngx_table_elt_t **) ((u_char *) &r->headers_in + offset);

    while (*ph) {
        ph = &(*ph)->next;
    }

    *ph = h;
    h->next = NULL;

#endif

    return NGX_OK;
}


/* Forgets what the slot at offset points to. */

void
ngx_http_wasm_unlink_request_header(ngx_http_request_t *r, ngx_uint_t offset,
    ngx_uint_t multi)
{
#if (nginx_version < 1023000)

    if (multi) {
        ngx_memzero((u_char *) &r->headers_in + offset, sizeof(ngx_array_t));
        return;
    }

#else

    (void) multi;

    /* ngx_http_link_multi_headers() remembers its links in these */
    r->headers_in.multi = 0;
    r->headers_in.multi_linked = 0;

#endif

    *(ngx_table_elt_t **) ((u_char *) &r->headers_in + offset) = NULL;
}


/* Offsets of the list-like request headers, which are arrays before 1.23.0. */

ngx_uint_t
ngx_http_wasm_request_header_is_multi(ngx_uint_t offset)
{
#if (nginx_version < 1023000)
    return offset == offsetof(ngx_http_headers_in_t, cookies)
#if (NGX_HTTP_X_FORWARDED_FOR)
           || offset == offsetof(ngx_http_headers_in_t, x_forwarded_for)
#endif
           ;
#else
    (void) offset;
    return 0;
#endif
}


void
ngx_http_wasm_init_header(ngx_table_elt_t *h)
{
#if (nginx_version >= 1023000)
    h->next = NULL;
#else
    (void) h;
#endif
}


/* What the User-Agent and Accept-Encoding of a request have been boiled down to. */

void
ngx_http_wasm_forget_user_agent(ngx_http_request_t *r)
{
    r->headers_in.msie = 0;
    r->headers_in.msie6 = 0;
    r->headers_in.opera = 0;
    r->headers_in.gecko = 0;
    r->headers_in.chrome = 0;
    r->headers_in.safari = 0;
    r->headers_in.konqueror = 0;
}


void
ngx_http_wasm_forget_gzip_test(ngx_http_request_t *r)
{
#if (NGX_HTTP_GZIP)
    r->gzip_tested = 0;
    r->gzip_ok = 0;
#else
    (void) r;
#endif
}


void
ngx_http_wasm_forget_variable(ngx_http_request_t *r, ngx_uint_t index)
{
    r->variables[index].valid = 0;
    r->variables[index].not_found = 0;
}


void
ngx_http_wasm_set_variable(ngx_http_variable_value_t *v, u_char *data, ngx_uint_t len)
{
    v->data = data;
    v->len = len;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;
}


ngx_int_t
ngx_http_wasm_variable(ngx_http_request_t *r, ngx_uint_t index,
    ngx_str_t *value)
{
    ngx_http_variable_value_t  *v;

    v = ngx_http_get_indexed_variable(r, index);
    if (v == NULL || v->not_found) {
        return NGX_DECLINED;
    }

    value->len = v->len;
    value->data = v->data;

    return NGX_OK;
}


void
ngx_http_wasm_set_not_found(ngx_http_variable_value_t *v)
{
    v->valid = 0;
    v->not_found = 1;
}


/* The layout of the headers this file was compiled with; the same list stands in ffi.rs. */

const size_t  ngx_http_wasm_layout[] = {
    sizeof(ngx_http_request_t),
    offsetof(ngx_http_request_t, ctx),
    offsetof(ngx_http_request_t, write_event_handler),
    offsetof(ngx_http_request_t, pool),
    offsetof(ngx_http_request_t, headers_in),
    offsetof(ngx_http_request_t, headers_out),
    offsetof(ngx_http_request_t, request_body),
    offsetof(ngx_http_request_t, unparsed_uri),
    offsetof(ngx_http_request_t, cleanup),
    offsetof(ngx_http_request_t, uri_start),
    offsetof(ngx_http_request_t, args_start),
    sizeof(ngx_http_headers_in_t),
    offsetof(ngx_http_headers_in_t, content_length_n),
    sizeof(ngx_http_headers_out_t),
    offsetof(ngx_http_headers_out_t, content_length_n),
    offsetof(ngx_http_headers_out_t, last_modified_time),
    sizeof(ngx_connection_t),
    offsetof(ngx_connection_t, log),
    sizeof(ngx_event_t),
    offsetof(ngx_event_t, handler),
    sizeof(ngx_buf_t),
    offsetof(ngx_buf_t, file),
    sizeof(ngx_table_elt_t),
    sizeof(ngx_http_variable_t),
};

const size_t  ngx_http_wasm_layout_len
    = sizeof(ngx_http_wasm_layout) / sizeof(ngx_http_wasm_layout[0]);
