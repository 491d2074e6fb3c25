/*
 * What Rust cannot say about nginx's structures: bit-fields, macros, and fields that differ between
 * versions. bindgen 0.72 puts the bit-fields of ngx_http_request_t two bytes off for nginx >= 1.29.3
 * and nothing fails to compile, so every bit is read and written here, against the real headers.
 * The table at the end lets the Rust side compare its idea of the layout when the module is loaded.
 */

#include "shim.h"

#include <stddef.h>


#define NGX_HTTP_WASM_GET(type, name, field)                                  \
    ngx_uint_t ngx_http_wasm_##name(const type *p) { return p->field; }

#define NGX_HTTP_WASM_SET(type, name, field)                                  \
    void ngx_http_wasm_set_##name(type *p, ngx_uint_t v) { p->field = v; }

NGX_HTTP_WASM_BITS(NGX_HTTP_WASM_GET, NGX_HTTP_WASM_SET)


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


/*
 * In this turn of the event loop, also where it was to be in the next: before that a worker that is to
 * leave looks for timers, and a response whose write event is posted has none.
 */

void
ngx_http_wasm_post_event(ngx_event_t *ev)
{
    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }

    ngx_post_event(ev, &ngx_posted_events);
}


/*
 * Has the next turn of the event loop come without waiting for anything: a process without a master looks
 * at the flags that its signal handler has set after each.
 */

static void
ngx_http_wasm_nothing(ngx_event_t *ev)
{
}


void
ngx_http_wasm_wake(void)
{
    static ngx_event_t  ev;

    if (!ev.posted) {
        ev.handler = ngx_http_wasm_nothing;
        ev.log = ngx_cycle->log;

        ngx_post_event(&ev, &ngx_posted_next_events);
    }
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


/* Something has happened at a socket of a guest's: whoever waits for it is woken, once. */

static void
ngx_http_wasm_watched(ngx_event_t *ev)
{
    ngx_event_t       *wake;
    ngx_connection_t  *c;

    c = ev->data;
    wake = c->data;

    ngx_http_wasm_del_timer(wake);
    ngx_http_wasm_post_event(wake);
}


/*
 * Watches a socket until ngx_http_wasm_unwatch(). It takes one of the worker's connections, of which
 * guests leave a quarter to those that the worker serves.
 */

ngx_connection_t *
ngx_http_wasm_watch(ngx_socket_t fd, ngx_uint_t read, ngx_uint_t write,
    ngx_log_t *log, ngx_event_t *wake)
{
    ngx_connection_t  *c;

    if (ngx_cycle->free_connection_n <= ngx_cycle->connection_n / 4) {
        return NULL;
    }

    c = ngx_get_connection(fd, log);

    if (c == NULL) {
        return NULL;
    }

    c->data = wake;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    c->read->log = log;
    c->read->handler = ngx_http_wasm_watched;
    c->write->log = log;
    c->write->handler = ngx_http_wasm_watched;

    if ((read && ngx_handle_read_event(c->read, 0) != NGX_OK)
        || (write && ngx_handle_write_event(c->write, 0) != NGX_OK))
    {
        ngx_http_wasm_unwatch(c);
        return NULL;
    }

    return c;
}


/* As ngx_close_connection(), except that the socket stays open. */

void
ngx_http_wasm_unwatch(ngx_connection_t *c)
{
    if (ngx_del_conn) {
        if (c->read->active || c->write->active) {
            ngx_del_conn(c, 0);
        }

    } else {
        if (c->read->active || c->read->disabled) {
            ngx_del_event(c->read, NGX_READ_EVENT, 0);
        }

        if (c->write->active || c->write->disabled) {
            ngx_del_event(c->write, NGX_WRITE_EVENT, 0);
        }
    }

    ngx_http_wasm_delete_posted_event(c->read);
    ngx_http_wasm_delete_posted_event(c->write);

    c->read->closed = 1;
    c->write->closed = 1;

    ngx_free_connection(c);

    c->fd = (ngx_socket_t) -1;
}


/*
 * The resolver of a request's location, or of the http block for whom there is none, with its time; null if
 * none is configured.
 */

ngx_resolver_t *
ngx_http_wasm_resolver(ngx_http_request_t *r, ngx_msec_t *timeout)
{
    ngx_http_conf_ctx_t       *http;
    ngx_http_core_loc_conf_t  *clcf;

    if (r != NULL) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    } else {
        http = (ngx_http_conf_ctx_t *)
                   ngx_get_conf(ngx_cycle->conf_ctx, ngx_http_module);
        clcf = http->loc_conf[ngx_http_core_module.ctx_index];
    }

    /* The http block has not inherited its default. */

    *timeout = clcf->resolver_timeout != NGX_CONF_UNSET_MSEC
               ? clcf->resolver_timeout : 30000;

    if (clcf->resolver == NULL || clcf->resolver->connections.nelts == 0) {
        return NULL;
    }

    return clcf->resolver;
}


/* An upstream that is still at work on the request. */

ngx_uint_t
ngx_http_wasm_upstream_works(const ngx_http_request_t *r)
{
    return r->upstream != NULL && r->upstream->cleanup != NULL;
}


/* One whose end the cache waits for. */

ngx_uint_t
ngx_http_wasm_upstream_caches(const ngx_http_request_t *r)
{
#if (NGX_HTTP_CACHE)
    return ngx_http_wasm_upstream_works(r) && r->cache != NULL
           && r->upstream->cacheable;
#else
    (void) r;
    return 0;
#endif
}


/* One that was asked with another method than the request's. */

ngx_uint_t
ngx_http_wasm_upstream_replaces_method(const ngx_http_request_t *r)
{
    return ngx_http_wasm_upstream_works(r) && r->upstream->method.len != 0;
}


/* One that is about to turn the connection into a tunnel. */

ngx_uint_t
ngx_http_wasm_upstream_upgrades(const ngx_http_request_t *r)
{
    return r->upstream != NULL && r->upstream->upgrade;
}


/*
 * Whether the code that makes the response has returned, so that only nginx's writer is left
 * (ngx_http_set_write_handler() alone sets that state).
 */

ngx_uint_t
ngx_http_wasm_is_left_to_writer(const ngx_http_request_t *r)
{
    return r->http_state == NGX_HTTP_WRITING_REQUEST_STATE
           && r->write_event_handler != ngx_http_core_run_phases
           && !ngx_http_wasm_upstream_works(r);
}


/*
 * A response begins anew: what its writer said of the one before is not true any more. That of a post
 * action has no body in any case: the client has had its response.
 */

void
ngx_http_wasm_begin_anew(ngx_http_request_t *r)
{
    r->http_state = NGX_HTTP_PROCESS_REQUEST_STATE;
    r->header_only = r->post_action;
}


/*
 * What filters have of a response that nobody will see is not to get into the next one: their contexts
 * go, except one, as in ngx_http_filter_finalize_request(), and what they have buffered with them.
 */

void
ngx_http_wasm_forget_filters(ngx_http_request_t *r, ngx_uint_t except)
{
    void  *ctx;

    ctx = r->ctx[except];
    ngx_memzero(r->ctx, sizeof(void *) * ngx_http_max_module);
    r->ctx[except] = ctx;

    r->buffered = 0;
}


/*
 * ngx_http_dav_module stores the file that the body of a PUT has been read into, and cannot ask for one
 * where somebody has read the body before. The file goes with the request, unless it has been renamed.
 */

void
ngx_http_wasm_read_body_for_all(ngx_http_request_t *r)
{
    if (r->method == NGX_HTTP_PUT) {
        if (!r->request_body_in_file_only) {
            r->request_body_in_file_only = 1;
            r->request_body_in_clean_file = 1;
        }

        r->request_body_in_persistent_file = 1;
        r->request_body_file_group_access = 1;
        r->request_body_file_log_level = 0;
    }
}


/*
 * Whether the location lets an upstream finish for a client that has gone (proxy_ignore_client_abort and
 * its like). The upstream's settings are the first field of all modules that have any.
 */

ngx_uint_t
ngx_http_wasm_ignores_client_abort(ngx_http_request_t *r)
{
    ngx_uint_t                 i, n;
    ngx_module_t             **modules;
    ngx_http_upstream_conf_t  *conf;

    static const char  *names[] = {
        "ngx_http_proxy_module", "ngx_http_fastcgi_module",
        "ngx_http_uwsgi_module", "ngx_http_scgi_module",
        "ngx_http_grpc_module", "ngx_http_memcached_module"
    };

    modules = ngx_cycle->modules;

    for (i = 0; modules[i]; i++) {
        if (modules[i]->type != NGX_HTTP_MODULE) {
            continue;
        }

        for (n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
            if (ngx_strcmp(modules[i]->name, names[n]) == 0) {
                conf = r->loc_conf[modules[i]->ctx_index];

                if (conf != NULL && conf->ignore_client_abort == 1) {
                    return 1;
                }
            }
        }
    }

    return 0;
}


ngx_uint_t
ngx_http_wasm_has_body(ngx_http_request_t *r)
{
    if (r->headers_in.content_length_n > 0 || r->headers_in.chunked) {
        return 1;
    }

#if (NGX_HTTP_V2)
    if (r->stream != NULL) {
        return r->headers_in.content_length_n != 0 && !r->stream->in_closed;
    }
#endif

    return 0;
}


/*
 * A body that nginx is dropping as it comes is counted down in content_length_n, which is about to be that
 * of another. Nothing more is read then: the connection is closed behind the response.
 */

void
ngx_http_wasm_stop_discarding(ngx_http_request_t *r)
{
    if (!r->discard_body) {
        return;
    }

    r->discard_body = 0;
    r->keepalive = 0;
    r->lingering_close = 1;
    r->read_event_handler = ngx_http_block_reading;

    r->main->count--;
}


/* How limit_rate pauses a connection. */

void
ngx_http_wasm_set_paused(ngx_http_request_t *r, ngx_uint_t paused)
{
    ngx_event_t  *wev;

    wev = r->connection->write;

    if (paused && wev->timer_set) {
        ngx_del_timer(wev);
    }

    wev->delayed = paused;
}


/* Whether subrequests, or reads in other threads, are under way whose output comes here. */

ngx_uint_t
ngx_http_wasm_has_company(const ngx_http_request_t *r)
{
    return r->postponed != NULL || r->connection->data != (void *) r
           || r->aio || r->blocked;
}


/* Whether error_page has something for a status, as ngx_http_special_response_handler() finds it. */

ngx_uint_t
ngx_http_wasm_has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (r->error_page || clcf->error_pages == NULL || r->uri_changes == 0) {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if ((ngx_uint_t) page[i].status == status) {
            return 1;
        }
    }

    return 0;
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

    /* FastCGI and its like link all headers by name, once: h is not among them yet */
    r->headers_in.multi_linked = 0;

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


/*
 * Response headers of which there may be several lines: the slot at headers_out + offset has those of
 * the list that are called so and have not been removed. An array is never left empty: nginx takes the
 * first element of one that has been made.
 */

ngx_int_t
ngx_http_wasm_link_response_headers(ngx_http_request_t *r, ngx_uint_t offset,
    ngx_str_t name)
{
    ngx_uint_t         i;
    ngx_list_part_t   *part;
    ngx_table_elt_t   *h, **ph;

#if (nginx_version < 1023000)

    ngx_array_t       *headers;

    headers = (ngx_array_t *) ((u_char *) &r->headers_out + offset);
    ngx_memzero(headers, sizeof(ngx_array_t));

#else

    ph = (ngx_table_elt_t **) ((u_char *) &r->headers_out + offset);
    *ph = NULL;

#endif

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0 || h[i].key.len != name.len
                || ngx_strncasecmp(h[i].key.data, name.data, name.len) != 0)
            {
                continue;
            }

#if (nginx_version < 1023000)

            if (headers->elts == NULL
                && ngx_array_init(headers, r->pool, 1,
                                  sizeof(ngx_table_elt_t *))
                   != NGX_OK)
            {
                return NGX_ERROR;
            }

            ph = ngx_array_push(headers);
            if (ph == NULL) {
                return NGX_ERROR;
            }

            *ph = &h[i];

#else

            *ph = &h[i];
            h[i].next = NULL;
            ph = &h[i].next;

#endif
        }
    }

    return NGX_OK;
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


/* What filters that compress go by, be the element in a list or not. */

void
ngx_http_wasm_set_accept_encoding(ngx_http_request_t *r, ngx_table_elt_t *h)
{
#if (NGX_HTTP_GZIP)
    r->headers_in.accept_encoding = h;
#else
    (void) r;
    (void) h;
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


/* Whether a module has added a variable of this name up to now. */

ngx_uint_t
ngx_http_wasm_knows_variable(ngx_conf_t *cf, ngx_str_t name)
{
    ngx_uint_t                  i;
    ngx_hash_key_t             *key;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    if (cmcf->variables_keys == NULL) {
        return 0;
    }

    key = cmcf->variables_keys->keys.elts;

    for (i = 0; i < cmcf->variables_keys->keys.nelts; i++) {
        if (key[i].key.len == name.len
            && ngx_strncmp(key[i].key.data, name.data, name.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/*
 * Whether the location that is being read begins with "return": its code is the first of those that
 * ngx_http_rewrite_module runs, whose array is the first field of its configuration.
 */

ngx_uint_t
ngx_http_wasm_begins_with_return(ngx_conf_t *cf)
{
    ngx_uint_t            i;
    ngx_array_t          *codes;
    ngx_module_t         *module;
    ngx_http_conf_ctx_t  *ctx;

    ctx = cf->ctx;

    for (i = 0; cf->cycle->modules[i]; i++) {
        module = cf->cycle->modules[i];

        if (module->type != NGX_HTTP_MODULE
            || ngx_strcmp(module->name, "ngx_http_rewrite_module") != 0)
        {
            continue;
        }

        codes = *(ngx_array_t **) ctx->loc_conf[module->ctx_index];

        return codes != NULL && codes->nelts >= sizeof(ngx_http_script_code_pt)
               && *(ngx_http_script_code_pt *) codes->elts
                  == ngx_http_script_return_code;
    }

    return 0;
}


/* The layout of the headers this file was compiled with; the same list is in ffi.rs. */

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
