//! Guests that wait wherever they can, in builds for tests: a call gives up its turn when it begins,
//! whenever it calls the host and before it returns, so that every test is also one of what happens
//! meanwhile. On demand a call fails there, too.

use std::env;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use wasmtime::{CallHook, CallHookHandler, Error, Result, StoreContextMut};

use super::instance::Data;
use crate::host::Host;

#[cfg(not(debug_assertions))]
compile_error!("the feature \"restless\" is for tests, never for a release build");

/// The host call that fails in each call of a guest, counted from 1; unset, none does. Only nginx's
/// `env` directive takes a variable to its workers.
const TRAP_AT: &str = "HTTP_WASM_TEST_TRAP_AT";

/// Longer than a tick of nginx's timers: they and other connections are served meanwhile.
const SLEEP: Duration = Duration::from_millis(3);

/// One turn out of so many is given up for [`SLEEP`].
const SLEEP_EVERY: u32 = 5;

/// So many places where a call gives up its turn at each. From there on it does ever more seldom: a
/// guest that reads a body byte by byte shall return, and an endless one be stopped where it is.
const PAUSES: u32 = 100;

/// What goes on in one instance.
#[derive(Default)]
pub(super) struct Restless {
    /// Places where the call under way could give up its turn.
    places: AtomicU32,
    /// Host functions that it has called, and instructions that the engine leaves to a function of
    /// its own (`memory.grow`).
    host_calls: AtomicU32,
}

#[async_trait]
impl<H: Host> CallHookHandler<Data<H>> for Restless {
    async fn handle_call_event(
        &self,
        mut store: StoreContextMut<'_, Data<H>>,
        event: CallHook,
    ) -> Result<()> {
        let state = &mut store.data_mut().state;
        match event {
            CallHook::CallingWasm => {
                self.places.store(0, Ordering::Relaxed);
                self.host_calls.store(0, Ordering::Relaxed);
            }
            CallHook::CallingHost => {
                let call = next(&self.host_calls);
                // Start functions are spared: nginx would not come up.
                if *FAILING == Some(call) && state.exchange().is_ok() {
                    return Err(Error::msg(format!("host call {call} fails, as {TRAP_AT} says")));
                }
            }
            CallHook::ReturningFromWasm => {}
            CallHook::ReturningFromHost => return Ok(()),
        }
        let place = next(&self.places);
        if (place <= PAUSES || place.is_power_of_two())
            && let Ok(host) = state.any_phase()
        {
            host.sleep(pause()).await;
        }
        Ok(())
    }
}

static FAILING: LazyLock<Option<u32>> = LazyLock::new(|| env::var(TRAP_AT).ok()?.parse().ok());

fn next(count: &AtomicU32) -> u32 {
    count.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

/// How long the next turn is given up. Guests that are called again and again do the same each time:
/// the long pauses are spread over all their places, and are the same ones in each run.
fn pause() -> Duration {
    static PAUSED: AtomicU32 = AtomicU32::new(0);

    let spread = next(&PAUSED).wrapping_mul(0x9e37_79b9) >> 16;
    if spread.is_multiple_of(SLEEP_EVERY) { SLEEP } else { Duration::ZERO }
}
