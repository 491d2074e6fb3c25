/*
 * What shim.c defines. build.rs makes the Rust declarations from this file; shim.c is compiled with it.
 */

#ifndef _NGX_HTTP_WASM_SHIM_H_INCLUDED_
#define _NGX_HTTP_WASM_SHIM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>


/* The bit-fields that are read and written: structure, name, field. */

#define NGX_HTTP_WASM_BITS(GET, SET)                                          \
    GET(ngx_http_request_t, r_internal, internal)                             \
    GET(ngx_http_request_t, r_header_only, header_only)                       \
    GET(ngx_http_request_t, r_valid_unparsed_uri, valid_unparsed_uri)         \
    GET(ngx_http_request_t, r_valid_location, valid_location)                 \
    GET(ngx_http_request_t, r_quoted_uri, quoted_uri)                         \
    GET(ngx_http_request_t, r_uri_changed, uri_changed)                       \
    GET(ngx_http_request_t, r_filter_finalize, filter_finalize)               \
    GET(ngx_http_request_t, r_subrequest_ranges, subrequest_ranges)           \
    GET(ngx_http_request_t, r_buffered, buffered)                             \
    GET(ngx_http_request_t, r_body_in_file_only, request_body_in_file_only)   \
    GET(ngx_http_request_t, r_body_in_clean_file, request_body_in_clean_file) \
    GET(ngx_http_request_t, r_body_file_group_access,                         \
        request_body_file_group_access)                                       \
    GET(ngx_connection_t, c_buffered, buffered)                               \
    GET(ngx_event_t, ev_ready, ready)                                         \
    GET(ngx_event_t, ev_timer_set, timer_set)                                 \
    GET(ngx_buf_t, b_in_file, in_file)                                        \
    GET(ngx_buf_t, b_last_buf, last_buf)                                      \
                                                                              \
    SET(ngx_http_request_t, r_main_filter_need_in_memory, main_filter_need_in_memory)\
    SET(ngx_http_request_t, r_filter_need_in_memory, filter_need_in_memory)   \
    SET(ngx_http_request_t, r_allow_ranges, allow_ranges)                     \
    SET(ngx_http_request_t, r_single_range, single_range)                     \
    SET(ngx_http_request_t, r_header_only, header_only)                       \
    SET(ngx_http_request_t, r_keepalive, keepalive)                           \
    SET(ngx_http_request_t, r_disable_not_modified, disable_not_modified)     \
    SET(ngx_http_request_t, r_valid_unparsed_uri, valid_unparsed_uri)         \
    SET(ngx_http_request_t, r_valid_location, valid_location)                 \
    SET(ngx_http_request_t, r_quoted_uri, quoted_uri)                         \
    SET(ngx_http_request_t, r_empty_path_in_uri, empty_path_in_uri)           \
    SET(ngx_http_request_t, r_uri_changed, uri_changed)                       \
    SET(ngx_http_request_t, r_preserve_body, preserve_body)                   \
    SET(ngx_http_request_t, r_expect_trailers, expect_trailers)               \
    SET(ngx_http_request_t, r_expect_tested, expect_tested)                   \
    SET(ngx_http_headers_in_t, in_chunked, chunked)                           \
    SET(ngx_connection_t, c_buffered, buffered)                               \
    SET(ngx_event_t, ev_cancelable, cancelable)                               \
    SET(ngx_buf_t, b_memory, memory)                                          \
    SET(ngx_buf_t, b_in_file, in_file)                                        \
    SET(ngx_buf_t, b_last_buf, last_buf)                                      \
    SET(ngx_buf_t, b_last_in_chain, last_in_chain)                            \
    SET(ngx_output_chain_ctx_t, out_need_in_memory, need_in_memory)


#define NGX_HTTP_WASM_GET(type, name, field)                                  \
    ngx_uint_t ngx_http_wasm_##name(const type *p);

#define NGX_HTTP_WASM_SET(type, name, field)                                  \
    void ngx_http_wasm_set_##name(type *p, ngx_uint_t v);

NGX_HTTP_WASM_BITS(NGX_HTTP_WASM_GET, NGX_HTTP_WASM_SET)

#undef NGX_HTTP_WASM_GET
#undef NGX_HTTP_WASM_SET


ngx_uint_t ngx_http_wasm_b_in_memory(const ngx_buf_t *b);
void ngx_http_wasm_add_timer(ngx_event_t *ev, ngx_msec_t time);
void ngx_http_wasm_del_timer(ngx_event_t *ev);
void ngx_http_wasm_post_event(ngx_event_t *ev);
void ngx_http_wasm_post_next_event(ngx_event_t *ev);
void ngx_http_wasm_wake(void);
void ngx_http_wasm_delete_posted_event(ngx_event_t *ev);
ngx_connection_t *ngx_http_wasm_watch(ngx_socket_t fd, ngx_uint_t read,
    ngx_uint_t write, ngx_log_t *log, ngx_event_t *wake);
void ngx_http_wasm_unwatch(ngx_connection_t *c);
ngx_resolver_t *ngx_http_wasm_resolver(ngx_http_request_t *r,
    ngx_msec_t *timeout);
ngx_uint_t ngx_http_wasm_upstream_works(const ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_upstream_caches(const ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_upstream_replaces_method(const ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_upstream_upgrades(const ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_is_left_to_writer(const ngx_http_request_t *r);
void ngx_http_wasm_begin_anew(ngx_http_request_t *r);
void ngx_http_wasm_forget_filters(ngx_http_request_t *r, ngx_uint_t except);
void ngx_http_wasm_read_body_for_all(ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_has_body(ngx_http_request_t *r);
void ngx_http_wasm_stop_discarding(ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_ignores_client_abort(ngx_http_request_t *r);
void ngx_http_wasm_set_paused(ngx_http_request_t *r, ngx_uint_t paused);
ngx_uint_t ngx_http_wasm_has_company(const ngx_http_request_t *r);
ngx_uint_t ngx_http_wasm_has_error_page(ngx_http_request_t *r,
    ngx_uint_t status);
ngx_uint_t ngx_http_wasm_end_upstream(ngx_http_request_t *r);
ngx_int_t ngx_http_wasm_link_request_header(ngx_http_request_t *r,
    ngx_uint_t offset, ngx_uint_t multi, ngx_table_elt_t *h);
void ngx_http_wasm_unlink_request_header(ngx_http_request_t *r,
    ngx_uint_t offset, ngx_uint_t multi);
ngx_uint_t ngx_http_wasm_request_header_is_multi(ngx_uint_t offset);
ngx_int_t ngx_http_wasm_link_response_headers(ngx_http_request_t *r,
    ngx_uint_t offset, ngx_str_t name);
void ngx_http_wasm_init_header(ngx_table_elt_t *h);
void ngx_http_wasm_forget_user_agent(ngx_http_request_t *r);
void ngx_http_wasm_forget_gzip_test(ngx_http_request_t *r);
void ngx_http_wasm_set_accept_encoding(ngx_http_request_t *r,
    ngx_table_elt_t *h);
void ngx_http_wasm_forget_variable(ngx_http_request_t *r, ngx_uint_t index);
void ngx_http_wasm_set_variable(ngx_http_variable_value_t *v, u_char *data,
    ngx_uint_t len);
ngx_int_t ngx_http_wasm_variable(ngx_http_request_t *r, ngx_uint_t index,
    ngx_str_t *value);
ngx_uint_t ngx_http_wasm_knows_variable(ngx_conf_t *cf, ngx_str_t name);
ngx_uint_t ngx_http_wasm_begins_with_return(ngx_conf_t *cf);
void ngx_http_wasm_set_not_found(ngx_http_variable_value_t *v);


/* The layout that shim.c was compiled with; ffi.rs has the same list. */

extern const size_t  ngx_http_wasm_layout[];
extern const size_t  ngx_http_wasm_layout_len;


#endif /* _NGX_HTTP_WASM_SHIM_H_INCLUDED_ */
