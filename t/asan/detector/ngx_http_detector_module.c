/*
 * Faults to be found: a request for /NAME commits the fault of that name. Memory comes from the
 * request's pool where it can, as most of the memory of a request does.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


u_char detector_overrun_in_rust(const u_char *start, size_t length);

static char *ngx_http_detector_set(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);


static volatile u_char  ngx_http_detector_seen;


static ngx_command_t  ngx_http_detector_commands[] = {

    { ngx_string("detector"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_detector_set,
      0,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_detector_module_ctx = {
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
};


ngx_module_t  ngx_http_detector_module = {
    NGX_MODULE_V1,
    &ngx_http_detector_module_ctx,
    ngx_http_detector_commands,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


#define asked(r, name)                                                        \
    ((r)->uri.len == sizeof(name) - 1                                         \
     && ngx_strncmp((r)->uri.data, name, sizeof(name) - 1) == 0)


static ngx_int_t
ngx_http_detector_handler(ngx_http_request_t *r)
{
    u_char  *p;

    /* Small enough for nginx's pools to cut it out of a block. */
    p = ngx_pnalloc(r->pool, 24);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (asked(r, "/overrun-in-c")) {
        ngx_http_detector_seen = ((volatile u_char *) p)[24];

    } else if (asked(r, "/overrun-in-rust")) {
        ngx_http_detector_seen = detector_overrun_in_rust(p, 24);

    } else if (asked(r, "/use-after-free")) {
        ngx_pfree(r->pool, p);
        ngx_http_detector_seen = *(volatile u_char *) p;

    } else if (asked(r, "/leak")) {
        p = ngx_alloc(24, r->connection->log);
        ngx_http_detector_seen = (p != NULL);

    } else if (!asked(r, "/none")) {
        return NGX_HTTP_NOT_FOUND;
    }

    return NGX_HTTP_NO_CONTENT;
}


static char *
ngx_http_detector_set(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_detector_handler;

    return NGX_CONF_OK;
}
