//! One running guest: its store, the two functions of the ABI, and the rule that an exchange is
//! lent to it for exactly one call.

use std::sync::Arc;

use wasmtime::{Extern, Global, Memory, ModuleExport, Store, Trap, TypedFunc, Val};

use super::error::{CallError, Cause, Exit, LoadError, Timeout};
use super::guest::{Exports, Settings, function};
use super::reset::{FindWritten, Pristine};
use super::ticker::Pace;
use super::wasi::{Traffic, Wasi};
use super::{Limiter, backtrace, describe};
use crate::abi::{EXPORT_HANDLE_REQUEST, EXPORT_HANDLE_RESPONSE, Features, Next};
use crate::host::error::Denial;
use crate::host::kept::Kept;
use crate::host::linker::Embed;
use crate::host::{Host, Phase, State};

/// What a store holds beside the instance.
pub(crate) struct Data<H> {
    pub(crate) state: State<H>,
    pub(crate) memory: Option<Memory>,
    pub(crate) limiter: Limiter,
    /// Where it is measured how long a call runs.
    pace: Arc<Pace>,
    /// Nothing for guests that do not import it.
    pub(crate) wasi: Option<Wasi>,
    poisoned: bool,
}

impl<H: Host> Data<H> {
    pub(crate) fn new(settings: &Settings, pace: &Arc<Pace>, wasi: Option<Wasi>) -> Self {
        Data {
            state: State::new(settings.config.clone()),
            memory: None,
            limiter: Limiter::new(settings.limits),
            pace: Arc::clone(pace),
            wasi,
            poisoned: false,
        }
    }
}

impl<H: Host> Embed for Data<H> {
    type Host = H;

    fn state(&mut self) -> &mut State<H> {
        &mut self.state
    }

    fn memory(&mut self) -> &mut Option<Memory> {
        &mut self.memory
    }
}

/// A guest that was started and waits for requests. It serves one at a time, from
/// [`Instance::handle_request`] to the end of [`Instance::handle_response`], because real guests
/// keep what belongs to a request in globals.
pub struct Instance<H: Host> {
    store: Store<Data<H>>,
    memory: Memory,
    // Kept, because looking them up costs more than calling them.
    handle_request: TypedFunc<(), u64>,
    handle_response: Option<TypedFunc<(u32, u32), ()>>,
    /// Its globals before its first call, if it can be reset.
    globals: Vec<(Global, Val)>,
    /// Where that is until it is needed: an instance that serves one request may never come to it.
    response_at: (wasmtime::Instance, ModuleExport),
}

impl<H: Host> Instance<H> {
    pub(crate) fn new(
        mut store: Store<Data<H>>,
        instance: wasmtime::Instance,
        exports: &Exports,
        globals: Vec<(Global, Val)>,
    ) -> Result<Self, LoadError> {
        let failed = |error| LoadError::Instantiate(describe(&error));
        let memory = instance.get_module_export(&mut store, &exports.memory);
        let memory = memory.and_then(Extern::into_memory);
        let memory = memory.ok_or_else(|| LoadError::Instantiate("no memory".into()))?;
        // Host functions need not look it up.
        store.data_mut().memory = Some(memory);
        Ok(Instance {
            memory,
            handle_request: function(instance, &mut store, &exports.handle_request)
                .map_err(failed)?,
            handle_response: None,
            response_at: (instance, exports.handle_response),
            globals,
            store,
        })
    }

    /// Calls `handle_request` with a fresh per-request state. `host` is dropped when the call is
    /// over, which is also when the future is dropped before its end; the instance is poisoned
    /// then.
    pub async fn handle_request(&mut self, host: H) -> Result<Next, CallError> {
        let loan = Loan::begin(&mut self.store, host, Phase::Request, EXPORT_HANDLE_REQUEST)?;
        let result = self.handle_request.call_async(&mut *loan.store, ()).await;
        loan.end(result).map(Next::from_abi)
    }

    /// Calls `handle_response` with the context that `handle_request` returned; `is_error` says
    /// that the request has ended without a whole response, so that changes have no effect. The loan of `host` is as in [`Instance::handle_request`].
    pub async fn handle_response(
        &mut self,
        host: H,
        ctx: u32,
        is_error: bool,
    ) -> Result<(), CallError> {
        let arguments = (ctx, u32::from(is_error));
        let phase = if is_error { Phase::Ended } else { Phase::Response };
        let loan = Loan::begin(&mut self.store, host, phase, EXPORT_HANDLE_RESPONSE)?;
        let (instance, export) = self.response_at;
        let found = match self.handle_response.take() {
            Some(function) => Ok(function),
            None => function(instance, loan.store, &export),
        };
        let result = match found {
            Ok(function) => {
                let function = self.handle_response.insert(function);
                function.call_async(&mut *loan.store, arguments).await
            }
            Err(error) => Err(error),
        };
        loan.end(result)
    }

    /// Whether a trap, an exit or a dropped call left this instance in an unknown state. It can
    /// only be dropped.
    pub fn is_poisoned(&self) -> bool {
        self.store.data().poisoned
    }

    /// Features that are enabled for the current request.
    pub fn features(&self) -> Features {
        self.store.data().state.features()
    }

    /// It does without a feature for the rest of this request, as if it had not asked for it.
    pub fn withdraw(&mut self, feature: Features) {
        self.store.data_mut().state.withdraw(feature);
    }

    /// Instructions that it has executed, start functions included, if its engine counts.
    pub fn instructions(&self) -> Option<u64> {
        self.store.get_fuel().ok().map(|left| u64::MAX - left)
    }

    /// Its memory.
    pub fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// The values of its globals that can change, if it can be reset.
    pub fn globals(&mut self) -> Vec<Val> {
        self.globals.iter().map(|(global, _)| global.get(&mut self.store)).collect()
    }

    /// As [`super::guest::Guest::reset`]. Where it fails the instance is not to be used any more.
    pub(super) fn reset(
        &mut self,
        pristine: &Pristine,
        find_written: FindWritten,
        wasi: Option<Wasi>,
    ) -> bool {
        let memory = self.memory.data(&self.store);
        let Some(written) = pristine.fits(memory, find_written) else {
            return false;
        };
        let memory = self.memory.data_mut(&mut self.store);
        written.into_iter().for_each(|range| pristine.restore(memory, range));
        for (global, value) in &self.globals {
            if global.set(&mut self.store, *value).is_err() {
                return false;
            }
        }
        self.store.data_mut().wasi = wasi;
        true
    }

    /// How many sockets it has open.
    pub fn open_sockets(&self) -> usize {
        self.store.data().wasi.as_ref().map_or(0, Wasi::open_sockets)
    }

    /// What its sockets did since it was last asked.
    pub fn take_traffic(&mut self) -> Option<Traffic> {
        self.store.data_mut().wasi.as_mut()?.take_traffic()
    }

    /// Size of the guest's memory. It never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }
}

/// An exchange inside a store. However a call ends, by returning, by an error, by a panic of the
/// host or because nobody polls it any more, the exchange leaves the store with the loan.
pub(crate) struct Loan<'s, H: Host> {
    pub(crate) store: &'s mut Store<Data<H>>,
    /// What is being called, for errors.
    pub(crate) call: &'static str,
    over: bool,
}

impl<'s, H: Host> Loan<'s, H> {
    pub(crate) fn begin(
        store: &'s mut Store<Data<H>>,
        host: H,
        phase: Phase,
        call: &'static str,
    ) -> Result<Self, CallError> {
        let data = store.data_mut();
        if data.poisoned {
            return Err(CallError::new(call, Cause::Poisoned, None));
        }
        data.limiter.refused_bytes = None;
        let limits = data.limiter.limits();
        data.pace.begin(match phase {
            Phase::Start => limits.start_timeout,
            Phase::Request | Phase::Response | Phase::Ended => limits.timeout,
        });
        data.state.lend(host, phase);
        // The next time the epoch goes forward the guest is asked how long it has been running.
        store.set_epoch_deadline(1);
        Ok(Loan { store, call, over: false })
    }

    /// The call is over: takes the exchange back, after what the guest printed without a line
    /// break got out. Anything but success poisons the instance.
    pub(crate) fn end<R>(mut self, result: wasmtime::Result<R>) -> Result<R, CallError> {
        let data = self.store.data_mut();
        if let (Some(wasi), Ok(host)) = (&mut data.wasi, data.state.any_phase()) {
            wasi.flush(host);
        }
        let host = match result {
            Ok(_) => data.state.take_back(),
            Err(_) => data.state.take_back_failed(),
        };
        self.over = true;
        result.map_err(|error| {
            data.poisoned = true;
            let error = call_error(self.call, error, &data.limiter);
            match host.as_ref().and_then(H::kept).and_then(Kept::last_line) {
                Some(line) => error.after(line),
                None => error,
            }
        })
    }
}

impl<H: Host> Drop for Loan<'_, H> {
    fn drop(&mut self) {
        if !self.over {
            let data = self.store.data_mut();
            data.poisoned = true;
            data.state.take_back_failed();
        }
    }
}

/// Sorts out why the engine gave up on a call.
fn call_error(call: &'static str, error: wasmtime::Error, limiter: &Limiter) -> CallError {
    let backtrace = error.downcast_ref().and_then(backtrace::frames);
    let error = match error.downcast::<Denial>() {
        Ok(denial) => return CallError::new(call, Cause::Denied(denial), backtrace),
        Err(error) => error,
    };
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return CallError::new(call, Cause::Exit(*exit), backtrace);
    }
    if let Some(&Timeout(limit)) = error.downcast_ref() {
        return CallError::new(call, Cause::Timeout { limit }, backtrace);
    }
    let trap = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => describe(&error),
    };
    let cause = match limiter.refused_bytes {
        Some(wanted_bytes) => {
            Cause::MemoryLimit { trap, wanted_bytes, limit_bytes: limiter.limits().memory_bytes }
        }
        None => Cause::Trap(trap),
    };
    CallError::new(call, cause, backtrace)
}
