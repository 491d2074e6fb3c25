//! Bodies against nginx's own pools, chains and temporary files: however a body is split into
//! buffers, in memory and in files, the bytes are the same.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_create_pool, ngx_destroy_pool, ngx_file_t,
    ngx_http_core_loc_conf_t, ngx_http_request_t, ngx_log_t, ngx_path_t, ngx_str_t,
};
use proptest::prelude::*;

use super::chain::{self, Reader};
use super::ffi;
use super::request::Request;
use super::spool::{Body, Room, SpoolError};

/// What a request needs to have for bodies: a pool, a connection with a log, and a location with a
/// place for temporary files.
struct Bench {
    r: *mut ngx_http_request_t,
    _parts: Box<Parts>,
}

struct Parts {
    r: ngx_http_request_t,
    connection: ngx_connection_t,
    log: ngx_log_t,
    location: ngx_http_core_loc_conf_t,
    path: ngx_path_t,
    folder: String,
    loc_conf: [*mut std::ffi::c_void; 1],
}

impl Bench {
    fn new() -> Self {
        // SAFETY: all of these are plain C data whose idle state is all zeroes, apart from the
        // String, which is written before anything reads it. nginx's globals are set as its own
        // start does, always to the same values.
        unsafe {
            nginx_sys::ngx_pagesize = 4096;
            nginx_sys::ngx_http_core_module.ctx_index = 0;
            let mut parts = Box::new(Parts {
                r: std::mem::zeroed(),
                connection: std::mem::zeroed(),
                log: std::mem::zeroed(),
                location: std::mem::zeroed(),
                path: std::mem::zeroed(),
                folder: std::env::temp_dir().to_string_lossy().into_owned(),
                loc_conf: [std::ptr::null_mut()],
            });
            parts.path.name =
                ngx_str_t { len: parts.folder.len(), data: parts.folder.as_mut_ptr() };
            parts.location.client_body_temp_path = &raw mut parts.path;
            parts.loc_conf[0] = (&raw mut parts.location).cast();
            parts.connection.log = &raw mut parts.log;
            parts.r.connection = &raw mut parts.connection;
            parts.r.loc_conf = parts.loc_conf.as_mut_ptr();
            parts.r.pool = ngx_create_pool(4096, &raw mut parts.log);
            assert!(!parts.r.pool.is_null());
            Bench { r: &raw mut parts.r, _parts: parts }
        }
    }

    fn request(&self) -> Request {
        // SAFETY: the request lives as long as the bench.
        unsafe { Request::new(self.r) }.expect("not null")
    }

    /// A chain of buffers with these bytes, in memory or in a file, some of them empty or special.
    fn chain(&self, pieces: &[(Vec<u8>, Place)]) -> *mut ngx_chain_t {
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
                        (*file).fd = temporary_file(bytes);
                        (*buf).file = file;
                        // Three bytes that are somebody else's come first.
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
    fn bytes(&self, chain: *mut ngx_chain_t) -> Vec<u8> {
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
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: the pool was made in `new` and is destroyed once.
        unsafe { ngx_destroy_pool((*self.r).pool) }
    }
}

thread_local! {
    static FILES: Cell<Vec<std::fs::File>> = const { Cell::new(Vec::new()) };
}

/// The descriptor of a file with three bytes and then `bytes`; open until the thread ends.
fn temporary_file(bytes: &[u8]) -> i32 {
    use std::io::Write;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name =
        format!("http-wasm-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
    FILES.with(|files| {
        let mut open = files.take();
        open.push(file);
        files.set(open);
    });
    fd
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Memory,
    File,
    Special,
}

/// A body cut into pieces at random, with special and empty buffers in between.
fn split_body() -> impl Strategy<Value = Vec<(Vec<u8>, Place)>> {
    let place = prop_oneof![Just(Place::Memory), Just(Place::File), Just(Place::Special)];
    let piece =
        (prop::collection::vec(any::<u8>(), 0..300), place).prop_map(
            |(bytes, place)| match place {
                Place::Special => (Vec::new(), place),
                _ => (bytes, place),
            },
        );
    prop::collection::vec(piece, 0..12)
}

fn joined(pieces: &[(Vec<u8>, Place)]) -> Vec<u8> {
    pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect()
}

proptest! {
    #[test]
    fn any_split_reads_the_same_in_any_step(pieces in split_body(), step in 1usize..400) {
        let bench = Bench::new();
        let expected = joined(&pieces);
        let mut reader = Reader::of(bench.chain(&pieces));
        for _ in 0..2 {
            let mut read = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                let chunk = reader.read(&mut buffer).expect("readable");
                read.extend_from_slice(&buffer[..chunk.len]);
                // EOF comes with the last bytes, and a short read only at the end.
                prop_assert_eq!(chunk.eof, read.len() == expected.len());
                prop_assert!(chunk.eof || chunk.len == step);
                if chunk.eof {
                    break;
                }
            }
            prop_assert_eq!(&read, &expected);
            reader.rewind();
        }
    }

    #[test]
    fn any_split_is_taken_in_and_passed_on_the_same(
        pieces in split_body(),
        memory in 0usize..600,
        step in 1usize..400,
    ) {
        let bench = Bench::new();
        let expected = joined(&pieces);
        let chain = bench.chain(&pieces);
        let mut body = Body::default();
        let room = Room { memory, max: 1 << 20 };
        chain::take(bench.request(), chain, &mut body, room).expect("room enough");
        prop_assert_eq!(body.len(), expected.len() as u64);
        // Whoever sent it has all its buffers back.
        prop_assert_eq!(bench.bytes(chain), Vec::<u8>::new());

        let mut read = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            let chunk = body.read(read.len() as u64, &mut buffer).expect("readable");
            read.extend_from_slice(&buffer[..chunk.len]);
            if chunk.eof {
                break;
            }
        }
        prop_assert_eq!(&read, &expected);

        let (out, _keep) = body.into_chain(bench.request(), true).expect("memory");
        prop_assert_eq!(bench.bytes(out.first()), expected);
    }

    #[test]
    fn a_body_never_outgrows_its_room(pieces in split_body(), max in 0u64..2000) {
        let bench = Bench::new();
        let expected = joined(&pieces).len() as u64;
        let chain = bench.chain(&pieces);
        let mut body = Body::default();
        let room = Room { memory: 64, max };
        match chain::take(bench.request(), chain, &mut body, room) {
            Ok(_) => prop_assert!(expected <= max),
            Err(SpoolError::TooLarge(limit)) => prop_assert!(expected > max && limit == max),
            Err(error) => prop_assert!(false, "{}", error),
        }
        prop_assert!(body.len() <= max);
        // Consumed all the same: the sender must not wait for a response that is given up.
        prop_assert_eq!(bench.bytes(chain), Vec::<u8>::new());
    }

    #[test]
    fn writes_of_any_size_append(writes in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..300), 0..20), memory in 0usize..1000)
    {
        let bench = Bench::new();
        let mut body = Body::default();
        let mut other = Body::default();
        let room = Room { memory, max: u64::MAX };
        let (first, second) = writes.split_at(writes.len() / 2);
        for bytes in first {
            body.write(bench.request(), bytes, room).expect("room enough");
        }
        for bytes in second {
            other.write(bench.request(), bytes, room).expect("room enough");
        }
        body.append(other);
        let (out, _keep) = body.into_chain(bench.request(), false).expect("memory");
        prop_assert_eq!(bench.bytes(out.first()), writes.concat());
    }
}
