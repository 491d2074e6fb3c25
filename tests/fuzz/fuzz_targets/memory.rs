//! Guest memory: whatever pointer and length come from a guest, what is inside is read and written
//! exactly, and what is outside is an error that has changed nothing.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::{bytes, edge};
use ngx_http_wasm_handler_module::memory::{Case, GuestMemory, OutOfRange, nul_list_len};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let size = u.int_in_range(0..=300)?;
    let mut real: Vec<u8> = (0..size).map(|at| at as u8).collect();
    let mut model = real.clone();
    while !u.is_empty() {
        let ptr = edge(u, size)?;
        let outside = |len: u64| len != 0 && u64::from(ptr) + len > size as u64;
        let mut memory = GuestMemory::new(&mut real);
        match u.int_in_range(0..=3)? {
            0 => {
                let len = edge(u, size)?;
                match memory.bytes(ptr, len) {
                    Ok(_) if len == 0 => {}
                    Ok(bytes) => assert_eq!(bytes, &model[ptr as usize..][..len as usize]),
                    Err(error) => check(error, ptr, len.into(), size),
                }
                assert_eq!(memory.bytes(ptr, len).is_err(), outside(len.into()));
            }
            1 => {
                // Lengths of the host's own are as wide as a usize.
                let len =
                    edge(u, size)? as usize | if u.ratio(1, 8)? { usize::MAX << 32 } else { 0 };
                let fill = u.arbitrary()?;
                match memory.buffer(ptr, len) {
                    Ok(buffer) => {
                        assert_eq!(buffer.len(), len);
                        buffer.fill(fill);
                        if len != 0 {
                            model[ptr as usize..][..len].fill(fill);
                        }
                    }
                    Err(error) => {
                        check(error, ptr, len as u64, size);
                        assert!(u64::from(ptr).saturating_add(len as u64) > size as u64);
                    }
                }
            }
            2 => {
                let (limit, value) = (edge(u, size)?, bytes(u, 40)?);
                let fits = value.len() as u64 <= u64::from(limit);
                match memory.write(ptr, limit, &value) {
                    Ok(len) => assert_eq!(len, value.len() as u64),
                    Err(error) => check(error, ptr, value.len() as u64, size),
                }
                let bad = fits && outside(value.len() as u64);
                if fits && !bad && !value.is_empty() {
                    model[ptr as usize..][..value.len()].copy_from_slice(&value);
                }
                assert_eq!(GuestMemory::new(&mut real).write(ptr, limit, &value).is_err(), bad);
            }
            _ => {
                let mut strings = Vec::new();
                for _ in 0..u.int_in_range(0..=6)? {
                    strings.push(bytes(u, 12)?);
                }
                let case = if u.arbitrary()? { Case::Lower } else { Case::Keep };
                let slices = || strings.iter().map(Vec::as_slice);
                let (count, full) = nul_list_len(slices());
                assert_eq!(count, strings.len());
                assert_eq!(full, strings.iter().map(|string| string.len() + 1).sum::<usize>());
                // Less room than was measured cuts whole strings off.
                let len = if u.ratio(1, 4)? { u.int_in_range(0..=full)? } else { full };
                let result = memory.nul_list(ptr, len, slices(), case);
                assert_eq!(result.is_err(), outside(len as u64));
                if let Err(error) = result {
                    check(error, ptr, len as u64, size);
                } else if len != 0 {
                    let mut rest = &mut model[ptr as usize..][..len];
                    for string in &strings {
                        let Some((slot, after)) = rest.split_at_mut_checked(string.len() + 1)
                        else {
                            break;
                        };
                        let mut text = string.clone();
                        if case == Case::Lower {
                            text.make_ascii_lowercase();
                        }
                        text.push(0);
                        slot.copy_from_slice(&text);
                        rest = after;
                    }
                }
            }
        }
        assert_eq!(real, model);
    }
    Ok(())
}

fn check(error: OutOfRange, ptr: u32, len: u64, size: usize) {
    assert_eq!(error, OutOfRange { ptr, len, size });
}
