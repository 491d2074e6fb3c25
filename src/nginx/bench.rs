//! A request on a workbench, for tests: nginx's own pools, lists, chains and temporary files, and
//! no server around them.

use std::cell::RefCell;
use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_create_pool, ngx_destroy_pool, ngx_event_t,
    ngx_file_t, ngx_hash_init, ngx_hash_init_t, ngx_hash_key_lc, ngx_hash_key_t,
    ngx_http_core_loc_conf_t, ngx_http_core_main_conf_t, ngx_http_core_srv_conf_t,
    ngx_http_header_t, ngx_http_headers_in, ngx_http_request_t, ngx_list_init, ngx_log_t,
    ngx_path_t, ngx_str_t, ngx_table_elt_t,
};

use crate::nginx::ngx::chain::{self, Reader};
use crate::nginx::ngx::ffi;
use crate::nginx::ngx::module;
use crate::nginx::ngx::request::Request;

/// What a request needs to have for fields, targets and bodies: a pool, a connection with a log,
/// lists, the table of known headers, and a location with a place for temporary files.
pub(crate) struct Bench {
    r: *mut ngx_http_request_t,
    parts: Box<Parts>,
}

struct Parts {
    r: ngx_http_request_t,
    connection: ngx_connection_t,
    read: ngx_event_t,
    write: ngx_event_t,
    ctx: [*mut c_void; 2],
    log: ngx_log_t,
    main: ngx_http_core_main_conf_t,
    server: ngx_http_core_srv_conf_t,
    location: ngx_http_core_loc_conf_t,
    path: ngx_path_t,
    folder: String,
    confs: [*mut c_void; 3],
    files: RefCell<Vec<std::fs::File>>,
}

/// Where the bytes of a buffer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory,
    /// In a file, behind three bytes that are somebody else's.
    File,
    /// Nowhere: a buffer without data.
    Special,
}

impl Bench {
    pub(crate) fn new() -> Self {
        // SAFETY: all of these are plain C data whose idle state is all zeroes, apart from String
        // and Vec, which are written before anything reads them. nginx's globals are set as its
        // own start does, always to the same values. Nothing moves out of the box any more, so the
        // pointers between its parts stay good.
        unsafe {
            nginx_sys::ngx_pagesize = 4096;
            nginx_sys::ngx_cacheline_size = 64;
            nginx_sys::ngx_http_core_module.ctx_index = 0;
            (*module::record()).ctx_index = 1;
            // What is added to the number of a temporary file whose name is taken.
            nginx_sys::ngx_random_number = 1;
            let mut parts = Box::new(Parts {
                r: std::mem::zeroed(),
                connection: std::mem::zeroed(),
                read: std::mem::zeroed(),
                write: std::mem::zeroed(),
                ctx: [std::ptr::null_mut(); 2],
                log: std::mem::zeroed(),
                main: std::mem::zeroed(),
                server: std::mem::zeroed(),
                location: std::mem::zeroed(),
                path: std::mem::zeroed(),
                folder: std::env::temp_dir().to_string_lossy().into_owned(),
                confs: [std::ptr::null_mut(); 3],
                files: RefCell::default(),
            });
            parts.path.name =
                ngx_str_t { len: parts.folder.len(), data: parts.folder.as_mut_ptr() };
            parts.location.client_body_temp_path = &raw mut parts.path;
            parts.server.merge_slashes = 1;
            parts.connection.log = &raw mut parts.log;
            parts.connection.read = &raw mut parts.read;
            parts.connection.write = &raw mut parts.write;
            parts.confs = [
                (&raw mut parts.main).cast(),
                (&raw mut parts.server).cast(),
                (&raw mut parts.location).cast(),
            ];
            let confs = parts.confs.as_mut_ptr();
            let pool = ngx_create_pool(4096, &raw mut parts.log);
            assert!(!pool.is_null());
            let r = &raw mut parts.r;
            (*r).connection = &raw mut parts.connection;
            (*r).main = r;
            (*r).ctx = parts.ctx.as_mut_ptr();
            (*r).main_conf = confs;
            (*r).srv_conf = confs.add(1);
            (*r).loc_conf = confs.add(2);
            (*r).pool = pool;
            // As ngx_http_alloc_request() has it, with shorter lists: more parts.
            for list in [
                &raw mut (*r).headers_in.headers,
                &raw mut (*r).headers_out.headers,
                &raw mut (*r).headers_out.trailers,
            ] {
                let size = size_of::<ngx_table_elt_t>();
                assert_eq!(ngx_list_init(list, pool, 4, size), ffi::OK);
            }
            (*r).headers_in.content_length_n = -1;
            (*r).headers_out.content_length_n = -1;
            (*r).headers_out.last_modified_time = -1;
            known_headers(&raw mut parts.main, pool);
            Bench { r, parts }
        }
    }

    pub(crate) fn request(&self) -> Request {
        // SAFETY: the request lives as long as the bench.
        unsafe { Request::new(self.r) }.expect("not null")
    }

    /// A chain of buffers with these bytes.
    pub(crate) fn chain(&self, pieces: &[(Vec<u8>, Place)]) -> *mut ngx_chain_t {
        let r = self.request();
        let mut out = chain::Out::default();
        for (bytes, place) in pieces {
            let buf = r.zeroed::<ngx_buf_t>().expect("memory");
            let copy = r.copy(bytes).expect("memory");
            // SAFETY: the buffer is zeroed and ours, the copy lives in the pool.
            unsafe {
                match place {
                    Place::Memory => {
                        (*buf).pos = copy.data;
                        (*buf).last = copy.data.add(copy.len);
                        ffi::ngx_http_wasm_set_b_memory(buf, 1);
                    }
                    Place::File => {
                        let file = r.zeroed::<ngx_file_t>().expect("memory");
                        (*file).fd = self.temporary_file(bytes);
                        (*buf).file = file;
                        (*buf).file_pos = 3;
                        (*buf).file_last = 3 + bytes.len() as i64;
                        ffi::ngx_http_wasm_set_b_in_file(buf, 1);
                    }
                    Place::Special => {}
                }
            }
            out.push(r, buf).expect("memory");
        }
        out.first()
    }

    /// Everything a chain holds, as the filters after ours would see it.
    pub(crate) fn bytes(&self, chain: *mut ngx_chain_t) -> Vec<u8> {
        let mut reader = Reader::of(chain);
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let chunk = reader.read(&mut buffer).expect("readable");
            bytes.extend_from_slice(&buffer[..chunk.len]);
            if chunk.eof {
                return bytes;
            }
        }
    }

    /// The descriptor of a file with three bytes and then `bytes`; open as long as the bench.
    fn temporary_file(&self, bytes: &[u8]) -> i32 {
        use std::io::Write;
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("http-wasm-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a temporary file");
        std::fs::remove_file(&path).expect("unlinked");
        file.write_all(b"xyz").expect("written");
        file.write_all(bytes).expect("written");
        let fd = file.as_raw_fd();
        self.parts.files.borrow_mut().push(file);
        fd
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: the pool was made in `new` and is destroyed once.
        unsafe { ngx_destroy_pool((*self.r).pool) }
    }
}

/// The table by which nginx finds the slot of a request header, made as
/// `ngx_http_init_headers_in_hash()` does.
///
/// # Safety
/// `main` and `pool` must be live, and `pool` must outlive every use of `main`.
unsafe fn known_headers(main: *mut ngx_http_core_main_conf_t, pool: *mut nginx_sys::ngx_pool_t) {
    // SAFETY: nginx's own list of headers ends with an empty name; the rest as the caller holds.
    unsafe {
        let mut header = (&raw mut ngx_http_headers_in).cast::<ngx_http_header_t>();
        let mut keys = Vec::new();
        while (*header).name.len != 0 {
            let key = (*header).name;
            let key_hash = ngx_hash_key_lc(key.data, key.len);
            keys.push(ngx_hash_key_t { key, key_hash, value: header.cast() });
            header = header.add(1);
        }
        let mut init = ngx_hash_init_t {
            hash: &raw mut (*main).headers_in_hash,
            key: Some(ngx_hash_key_lc),
            max_size: 512,
            bucket_size: 64,
            name: c"headers_in_hash".as_ptr().cast_mut(),
            pool,
            temp_pool: std::ptr::null_mut(),
        };
        assert_eq!(ngx_hash_init(&raw mut init, keys.as_mut_ptr(), keys.len()), ffi::OK);
    }
}
