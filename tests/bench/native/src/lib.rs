//! The jobs of the benchmark as one would write them in a native module: straight on nginx's structures, no more than
//! the job needs. `bench_native JOB;` in a location picks one.

use std::ffi::{c_char, c_void};
use std::ptr::{addr_of, addr_of_mut, null, null_mut};

use memchr::memmem;
use ngx::core::{NGX_CONF_OK, Status};
use ngx::ffi::*;
use ngx::http::{
    HTTPStatus, HttpModule, HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule, Request,
};
use ngx::{http_request_handler, ngx_string};

const SECRET: &[u8] = b"card-4711";
const ANSWER: &[u8] = b"hello\n";
const PREFIX: &[u8] = b"/v1";

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Job {
    #[default]
    None,
    /// Declines, and that is all.
    Empty,
    Headers,
    Answer,
    Uri,
    Redact,
    Body,
}

#[derive(Debug, Default)]
struct LocConf {
    job: Job,
}

impl ngx::http::Merge for LocConf {
    fn merge(&mut self, _: &LocConf) -> Result<(), ngx::http::MergeConfigError> {
        Ok(())
    }
}

struct Module;

// SAFETY: create_loc_conf below makes this type.
unsafe impl HttpModuleLocationConf for Module {
    type LocationConf = LocConf;
}

impl HttpModule for Module {
    fn module() -> &'static ngx_module_t {
        // SAFETY: nginx writes its fields before any request.
        unsafe { &*addr_of!(ngx_http_bench_native_module) }
    }

    unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        // SAFETY: called inside the http block; one thread.
        unsafe {
            let Some(cmcf) = NgxHttpCoreModule::main_conf_mut(&*cf) else {
                return Status::NGX_ERROR.into();
            };
            let phase = &mut cmcf.phases[ngx_http_phases_NGX_HTTP_ACCESS_PHASE as usize];
            let slot = ngx_array_push(&mut phase.handlers).cast::<ngx_http_handler_pt>();
            if slot.is_null() {
                return Status::NGX_ERROR.into();
            }
            *slot = Some(access);
            NEXT_BODY = ngx_http_top_body_filter;
            ngx_http_top_body_filter = Some(body_filter);
        }
        Status::NGX_OK.into()
    }
}

fn job(r: &Request) -> Job {
    Module::location_conf(r).map_or(Job::None, |conf| conf.job)
}

http_request_handler!(access, |r: &mut Request| match job(r) {
    Job::None | Job::Empty => Status::NGX_DECLINED,
    Job::Headers => headers(r).map_or(Status::NGX_ERROR, |()| Status::NGX_DECLINED),
    Job::Answer => answer(r),
    Job::Uri => uri(r),
    Job::Redact => {
        r.as_mut().set_filter_need_in_memory(1);
        Status::NGX_DECLINED
    }
    Job::Body => body(r),
});

fn headers(r: &mut Request) -> Option<()> {
    let mut seen = [""; 3];
    for (name, value) in r.headers_in_iterator() {
        let (name, value) = (name.as_bytes(), value.to_str().ok()?);
        if name.eq_ignore_ascii_case(b"user-agent") {
            seen[0] = value;
        } else if name.eq_ignore_ascii_case(b"accept") {
            seen[1] = value;
        } else if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            seen[2] = value;
        }
    }
    let client = seen.join("|");
    r.add_header_in("X-Client", &client)?;
    r.add_header_out("X-Client", &client)
}

fn answer(r: &mut Request) -> Status {
    if r.discard_request_body() != Status::NGX_OK {
        return Status::NGX_ERROR;
    }
    r.set_status(HTTPStatus::OK);
    r.set_content_length_n(ANSWER.len());
    r.add_header_out("Content-Type", "text/plain");
    let rc = r.send_header();
    if rc == Status::NGX_ERROR || rc > Status::NGX_OK || r.header_only() {
        return rc;
    }
    let Some(mut out) = chain(r, ANSWER) else {
        return Status::NGX_ERROR;
    };
    let rc = r.output_filter(&mut out);
    // SAFETY: the request is live; DONE tells the phases to leave it alone.
    unsafe { ngx_http_finalize_request(r.as_mut(), rc.0) };
    Status::NGX_DONE
}

/// The last buffer of a response, with bytes that live as long as the request.
fn chain(r: &Request, bytes: &[u8]) -> Option<ngx_chain_t> {
    let pool = r.pool();
    // SAFETY: a zeroed buffer of the pool; nginx only reads the memory.
    unsafe {
        let buf = pool.calloc_type::<ngx_buf_t>().as_mut()?;
        buf.pos = bytes.as_ptr().cast_mut();
        buf.last = buf.pos.add(bytes.len());
        buf.set_memory(u32::from(!bytes.is_empty()));
        buf.set_last_buf(1);
        buf.set_last_in_chain(1);
        Some(ngx_chain_t { buf, next: null_mut() })
    }
}

fn uri(r: &mut Request) -> Status {
    let r = r.as_mut();
    if r.uri.as_bytes().starts_with(PREFIX) {
        // SAFETY: the prefix is inside the string.
        r.uri.data = unsafe { r.uri.data.add(PREFIX.len()) };
        r.uri.len -= PREFIX.len();
        // Upstream gets what was decoded, not the line of the client.
        r.set_valid_unparsed_uri(0);
    }
    Status::NGX_DECLINED
}

/// The request context: nothing, or one of these.
const READING: *mut c_void = 1 as *mut c_void;
const READ: *mut c_void = 2 as *mut c_void;

fn ctx(r: &mut ngx_http_request_t) -> &mut *mut c_void {
    // SAFETY: every module has a slot.
    unsafe { &mut *r.ctx.add(Module::module().ctx_index) }
}

fn body(r: &mut Request) -> Status {
    let r = r.as_mut();
    match *ctx(r) {
        READING => Status::NGX_DONE,
        READ => {
            std::hint::black_box(length(r));
            Status::NGX_DECLINED
        }
        _ => {
            *ctx(r) = READING;
            // SAFETY: the request is in its access phase; the reference is given back.
            unsafe {
                let rc = ngx_http_read_client_request_body(r, Some(on_body));
                if rc >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t {
                    return Status(rc);
                }
                ngx_http_finalize_request(r, Status::NGX_DONE.0);
            }
            Status::NGX_DONE
        }
    }
}

unsafe extern "C" fn on_body(r: *mut ngx_http_request_t) {
    // SAFETY: nginx calls back with the live request.
    unsafe {
        *ctx(&mut *r) = READ;
        (*r).set_preserve_body(1);
        (*r).write_event_handler = Some(ngx_http_core_run_phases);
        ngx_http_core_run_phases(r);
    }
}

/// Looks at every byte of the body in memory.
fn length(r: &ngx_http_request_t) -> usize {
    let mut len = 0;
    // SAFETY: nginx has read the body into this chain.
    unsafe {
        let mut link = r.request_body.as_ref().map_or(null_mut(), |body| body.bufs);
        while let Some(cl) = link.as_ref() {
            let buf = &*cl.buf;
            let bytes = std::slice::from_raw_parts(buf.pos, buf.last.offset_from_unsigned(buf.pos));
            len += bytes.len() + memchr::memchr_iter(0, bytes).count();
            link = cl.next;
        }
    }
    len
}

static mut NEXT_BODY: ngx_http_output_body_filter_pt = None;

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx calls a filter with a live request; the next filter was there before us.
    unsafe {
        let request = Request::from_ngx_http_request(r);
        match NEXT_BODY {
            Some(next) if job(request) == Job::Redact => redact(request, chain, next),
            Some(next) => next(r, chain),
            None => Status::NGX_ERROR.into(),
        }
    }
}

/// Collects the body, for a secret may span buffers, and sends it when it is complete.
unsafe fn redact(
    request: &mut Request,
    mut link: *mut ngx_chain_t,
    next: unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_chain_t) -> ngx_int_t,
) -> ngx_int_t {
    // SAFETY: the buffers are nginx's and in memory (filter_need_in_memory); the Vec lives in the request's pool.
    unsafe {
        if ctx(request.as_mut()).is_null() {
            let room = request.as_ref().headers_out.content_length_n.max(0) as usize;
            let body = request.pool().allocate(Vec::<u8>::with_capacity(room));
            *ctx(request.as_mut()) = body.cast();
        }
        let Some(body) = ctx(request.as_mut()).cast::<Vec<u8>>().as_mut() else {
            return Status::NGX_ERROR.into();
        };
        let mut is_last = false;
        while let Some(cl) = link.as_ref() {
            let buf = &mut *cl.buf;
            if !buf.pos.is_null() {
                let bytes =
                    std::slice::from_raw_parts(buf.pos, buf.last.offset_from_unsigned(buf.pos));
                body.extend_from_slice(bytes);
                buf.pos = buf.last;
            }
            is_last |= buf.last_buf() != 0;
            link = cl.next;
        }
        if !is_last {
            return Status::NGX_OK.into();
        }
        let finder = memmem::Finder::new(SECRET);
        let mut from = 0;
        while let Some(at) = finder.find(&body[from..]) {
            body[from + at..][..SECRET.len()].fill(b'#');
            from += at + SECRET.len();
        }
        match chain(request, body) {
            Some(mut out) => next(request.as_mut(), &mut out),
            None => Status::NGX_ERROR.into(),
        }
    }
}

unsafe extern "C" fn set_job(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx calls a setter with our location conf and two arguments, as the command says.
    unsafe {
        let args = (*(*cf).args).elts.cast::<ngx_str_t>();
        (*conf.cast::<LocConf>()).job = match (*args.add(1)).as_bytes() {
            b"empty" => Job::Empty,
            b"headers" => Job::Headers,
            b"answer" => Job::Answer,
            b"uri" => Job::Uri,
            b"redact" => Job::Redact,
            b"body" => Job::Body,
            _ => {
                return c"is none of empty, headers, answer, uri, redact, body".as_ptr().cast_mut();
            }
        };
    }
    NGX_CONF_OK
}

static mut COMMANDS: [ngx_command_t; 2] = [
    ngx_command_t {
        name: ngx_string!("bench_native"),
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(set_job),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: null_mut(),
    },
    ngx_command_t::empty(),
];

static MODULE_CTX: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: None,
    postconfiguration: Some(Module::postconfiguration),
    create_main_conf: None,
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(Module::create_loc_conf),
    merge_loc_conf: Some(Module::merge_loc_conf),
};

/// The module record that nginx looks up by this name.
#[unsafe(no_mangle)]
pub static mut ngx_http_bench_native_module: ngx_module_t = ngx_module_t {
    ctx: addr_of!(MODULE_CTX).cast_mut().cast(),
    commands: addr_of_mut!(COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    ..ngx_module_t::default()
};

#[repr(transparent)]
pub struct Table<T, const N: usize>([*const T; N]);

// SAFETY: constants that nobody writes.
unsafe impl<T, const N: usize> Sync for Table<T, N> {}

const NAME: *const c_char = c"ngx_http_bench_native_module".as_ptr();

/// What nginx looks up when it loads the library. The place is before the copy filter in the list: the body filter runs
/// after it, on memory.
#[unsafe(no_mangle)]
pub static ngx_modules: Table<ngx_module_t, 2> =
    Table([addr_of!(ngx_http_bench_native_module), null()]);
#[unsafe(no_mangle)]
pub static ngx_module_names: Table<c_char, 2> = Table([NAME, null()]);
#[unsafe(no_mangle)]
pub static ngx_module_order: Table<c_char, 3> =
    Table([NAME, c"ngx_http_copy_filter_module".as_ptr(), null()]);
