//! The figures of all processes, in memory that they share and that stays over reloads.
//!
//! A table: a row for each process, a place in every row for each guest. A process writes to its own
//! row only, so nobody locks anything. Rows are claimed by process id; one whose process is gone is
//! taken over by the next that comes, with what it counted. Places are given out by the process that
//! reads configurations ([`directory`]).

use std::alloc::Layout;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use nginx_sys::{
    ngx_conf_t, ngx_core_conf_t, ngx_cycle_t, ngx_http_conf_ctx_t, ngx_int_t, ngx_shm_zone_t,
    ngx_slab_pool_t,
};
use rustix::process::{Pid, getpgid};

use super::{Meter, Meters};
use crate::nginx::ngx::ffi::{ERROR, OK, c_void_of, guard};
use crate::nginx::ngx::headers_in::constant;
use crate::nginx::ngx::log::{Log, WARN};
use crate::nginx::ngx::module;
use crate::status::cells::{Cells, Totals};
use crate::status::directory::{self, Entry, Identity};

/// Places at least, so that guests come and go in the same zone.
const PLACES: usize = 16;

#[repr(C)]
struct Header {
    rows: usize,
    places: usize,
    /// Configurations that have been read.
    generation: AtomicU64,
}

/// Zeroes are a free one.
#[repr(C)]
struct Row {
    /// Whose it is; 0 for nobody's.
    pid: AtomicU64,
    /// The configuration it works under.
    generation: AtomicU64,
    /// Not 0 once anybody has counted in it. Until then nobody needs to look at it: memory that is
    /// looked at is memory that is taken.
    used: AtomicU64,
}

/// A table in a zone. It is used only while the zone is mapped: the meters that lead to it let go of
/// it before ([`Meter::detach`]).
#[derive(Clone, Copy)]
pub(crate) struct Table {
    header: &'static Header,
    rows: &'static [Row],
    entries: &'static [Entry],
    /// Row by row.
    cells: &'static [Cells],
}

/// A guest's place in every row, under one configuration.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    table: Table,
    at: usize,
    generation: u64,
}

struct Offsets {
    rows: usize,
    entries: usize,
    cells: usize,
    layout: Layout,
}

fn offsets(rows: usize, places: usize) -> Option<Offsets> {
    let layout = Layout::new::<Header>();
    let (layout, rows_at) = layout.extend(Layout::array::<Row>(rows).ok()?).ok()?;
    let (layout, entries) = layout.extend(Layout::array::<Entry>(places).ok()?).ok()?;
    let cells = Layout::array::<Cells>(rows.checked_mul(places)?).ok()?;
    let (layout, cells) = layout.extend(cells).ok()?;
    Some(Offsets { rows: rows_at, entries, cells, layout })
}

impl Table {
    /// # Safety
    /// At `header` is a table that [`create`] made, and it stays mapped for as long as the value is
    /// used.
    unsafe fn at(header: *const Header) -> Option<Self> {
        // SAFETY: the caller holds that there is a table, so the offsets are those that it was laid
        // out with, and all of its parts are integers that are only changed atomically.
        unsafe {
            let &Header { rows, places, .. } = &*header;
            let at = offsets(rows, places)?;
            let base = header.cast::<u8>();
            Some(Table {
                header: &*header,
                rows: std::slice::from_raw_parts(base.add(at.rows).cast(), rows),
                entries: std::slice::from_raw_parts(base.add(at.entries).cast(), places),
                cells: std::slice::from_raw_parts(base.add(at.cells).cast(), rows * places),
            })
        }
    }

    fn used_rows(&self) -> impl Iterator<Item = (usize, &'static Row)> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| row.used.load(Ordering::Acquire) != 0)
    }

    fn row(&self, row: usize) -> &'static [Cells] {
        let places = self.entries.len();
        &self.cells[row * places..][..places]
    }

    /// The first configuration that a process may still work under. Those of the last one need not
    /// have their rows yet.
    fn oldest(&self) -> u64 {
        let rows = self.rows.iter().filter(|row| is_alive(row.pid.load(Ordering::Acquire)));
        let rows = rows.map(|row| row.generation.load(Ordering::Relaxed));
        rows.chain([self.header.generation.load(Ordering::Relaxed)]).min().unwrap_or(0)
    }

    /// What everybody has counted, by place.
    pub(crate) fn totals(&self) -> (u64, Vec<Totals>) {
        let mut alive = 0;
        let mut sums = vec![Totals::default(); self.entries.len()];
        for (at, row) in self.used_rows() {
            let is_alive = is_alive(row.pid.load(Ordering::Acquire));
            alive += u64::from(is_alive);
            for (sum, cells) in sums.iter_mut().zip(self.row(at)) {
                sum.add(cells, is_alive);
            }
        }
        (alive, sums)
    }

    /// A row for this process: a free one, or that of a process that is gone.
    fn claim(&self, generation: u64) -> Option<usize> {
        let me = u64::from(std::process::id());
        let at = self.rows.iter().position(|row| {
            let pid = row.pid.load(Ordering::Acquire);
            let free = pid == me || !is_alive(pid);
            let (taken, seen) = (Ordering::AcqRel, Ordering::Relaxed);
            free && row.pid.compare_exchange(pid, me, taken, seen).is_ok()
        })?;
        let row = &self.rows[at];
        row.generation.store(generation, Ordering::Relaxed);
        if row.used.swap(1, Ordering::AcqRel) != 0 {
            self.row(at).iter().for_each(Cells::forget_gauges);
        }
        Some(at)
    }
}

/// Whether a worker of this nginx has this process id; a stranger may have got it since.
fn is_alive(pid: u64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| getpgid(Some(pid)).is_ok_and(|group| Ok(group) == getpgid(None)))
}

/// The row of this process.
#[derive(Clone, Copy)]
struct Claim {
    table: Table,
    /// None when all were taken.
    row: Option<usize>,
}

thread_local! {
    static CLAIM: Cell<Option<Claim>> = const { Cell::new(None) };
}

impl Place {
    /// Figures of this process.
    pub(super) fn cells(self) -> Option<&'static Cells> {
        let row = self.row()?;
        self.table.row(row).get(self.at)
    }

    fn row(self) -> Option<usize> {
        if let Some(claim) = CLAIM.get()
            && std::ptr::eq(claim.table.header, self.table.header)
        {
            return claim.row;
        }
        let row = self.table.claim(self.generation);
        if row.is_none() {
            Log::cycle().write(
                WARN,
                format_args!(
                    "http_wasm: all {} rows of the status are taken by other workers, what this \
                     one does is not counted",
                    self.table.rows.len()
                ),
            );
        }
        CLAIM.set(Some(Claim { table: self.table, row }));
        row
    }

    /// What all processes together have counted for this guest, given [`Table::totals`].
    pub(super) fn of(self, totals: &[Totals]) -> Totals {
        totals.get(self.at).cloned().unwrap_or_default()
    }

    pub(super) const fn table(self) -> Table {
        self.table
    }
}

/// A zone of ours.
const NAME: &std::ffi::CStr = c"http_wasm_status";

/// The zone of the running configuration, if it has one, with its table. None for one that another
/// build of this module made.
fn running() -> Option<(Table, &'static Meters)> {
    // SAFETY: while a configuration is read ngx_cycle is the one that runs (or an empty one at the
    // start), whose list of zones is complete; our zones have the Meters of the same cycle as data,
    // and nginx unmaps them after the new cycle's zones are initialised.
    unsafe {
        let cycle = nginx_sys::ngx_cycle.as_ref()?;
        let mut part = &raw const cycle.shared_memory.part;
        while let Some(list) = part.as_ref() {
            for at in 0..list.nelts {
                let zone = &*list.elts.cast::<ngx_shm_zone_t>().add(at);
                let ours = zone.tag == module::record().cast()
                    && crate::nginx::ngx::ffi::bytes(zone.shm.name) == NAME.to_bytes();
                if ours && !zone.shm.addr.is_null() && !zone.data.is_null() {
                    let pool = zone.shm.addr.cast::<ngx_slab_pool_t>();
                    let table = Table::at((*pool).data.cast::<Header>().as_ref()?)?;
                    return Some((table, &*zone.data.cast::<Meters>()));
                }
            }
            part = list.next;
        }
    }
    None
}

/// Asks nginx for the zone, in which everything has room.
pub(crate) fn add(cf: *mut ngx_conf_t, meters: &Meters) -> Result<(), ()> {
    let identities: Vec<Identity> = meters.iter().map(|(&identity, _)| identity).collect();
    // Twice as many as there are workers run side by side after a reload, and some more while those
    // of earlier configurations finish what they have.
    let mut rows = 4 * workers(cf) + 4;
    let mut places = identities.len().max(PLACES);
    if let Some((table, _)) = running() {
        // A zone of another size would be another zone.
        rows = rows.max(table.rows.len());
        let needed = directory::needed(table.entries, &identities, table.oldest());
        places = places.max(needed).max(table.entries.len());
    }
    let places = places.next_power_of_two();
    let bytes = offsets(rows, places).ok_or(())?.layout.size();
    // SAFETY: a constant that nginx sets at its start.
    let page = unsafe { nginx_sys::ngx_pagesize };
    // nginx keeps a record beside each page, and some of its own.
    let pages = bytes.div_ceil(page) + 8;
    let size = (pages * (page + 64)).next_multiple_of(page);
    let mut name = constant(NAME);
    // SAFETY: `cf` is nginx's for this callback; the name is a constant, the tag the module's record.
    unsafe {
        let tag = module::record().cast::<c_void>();
        let zone = nginx_sys::ngx_shared_memory_add(cf, &raw mut name, size, tag);
        if zone.is_null() {
            return Err(());
        }
        (*zone).init = Some(init);
        (*zone).data = c_void_of(meters);
        meters.table_size.set((rows, places));
    }
    Ok(())
}

/// `worker_processes`, or what it is going to be.
fn workers(cf: *mut ngx_conf_t) -> usize {
    // SAFETY: the core module's configuration is there before any block is read.
    let count = unsafe {
        let core = *(*(*cf).cycle).conf_ctx.add(nginx_sys::ngx_core_module.index);
        match core.cast::<ngx_core_conf_t>().as_ref() {
            Some(core) => core.worker_processes,
            None => -1,
        }
    };
    // SAFETY: a plain integer that nginx sets at its start.
    usize::try_from(count).unwrap_or(unsafe { nginx_sys::ngx_ncpu } as usize).max(1)
}

/// `ngx_shm_zone_init_pt`: the zone is there, new or (`old`) that of the configuration before.
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    guard(ERROR, || {
        // SAFETY: nginx calls with a zone that `add` asked for: its data is the Meters of the cycle
        // being made, which stays where it is, and at its address is a slab pool, which has our
        // table as its data if it is not new.
        let (meters, table) = unsafe {
            let pool = (*zone).shm.addr.cast::<ngx_slab_pool_t>();
            let meters = &*(*zone).data.cast::<Meters>();
            if old.is_null() && create(pool, meters.table_size.get()).is_none() {
                return ERROR;
            }
            (meters, Table::at((*pool).data.cast::<Header>()))
        };
        let Some(table) = table else { return ERROR };
        if old.is_null()
            && let Some((before, conf)) = running()
        {
            take_over(&table, &before);
            // nginx unmaps it soon, and without worker processes it is this one that uses it. With
            // them it does not, and workers are forked with it again if the reload fails later on.
            // SAFETY: a plain integer that nginx sets at its start.
            if unsafe { nginx_sys::ngx_process } == nginx_sys::NGX_PROCESS_SINGLE as usize {
                conf.iter().for_each(|(_, meter)| meter.detach());
                CLAIM.set(None);
            }
        }
        give_places(table, meters);
        OK
    })
}

/// Makes a table in a new zone.
///
/// # Safety
/// `pool` is the zone's, and nobody else uses it yet.
unsafe fn create(pool: *mut ngx_slab_pool_t, (rows, places): (usize, usize)) -> Option<()> {
    let layout = offsets(rows, places)?.layout;
    // SAFETY: the caller holds that the pool is ours. Several pages begin at a page, which is more
    // than the layout's alignment; all zeroes are valid for every part of a table, and the sizes are
    // written before anybody looks.
    unsafe {
        let header = nginx_sys::ngx_slab_alloc(pool, layout.size()).cast::<Header>();
        if header.is_null() || !header.cast::<u8>().addr().is_multiple_of(layout.align()) {
            return None;
        }
        // Pages of a zone that nginx has just mapped are zeroes, unless it is built to spoil what it
        // hands out (NGX_DEBUG_MALLOC). Figures get written to when there is something to count.
        let head = offsets(rows, places)?.cells;
        let is_spoilt = header.cast::<u8>().add(head).read() != 0;
        let zeroed = if is_spoilt { layout.size() } else { head };
        std::ptr::write_bytes(header.cast::<u8>(), 0, zeroed);
        (*header).rows = rows;
        (*header).places = places;
        (*pool).data = header.cast();
    }
    Some(())
}

/// What was counted in a zone that another one takes the place of. What the workers of earlier
/// configurations count there from now on is lost.
fn take_over(table: &Table, before: &Table) {
    let generation = before.header.generation.load(Ordering::Relaxed);
    table.header.generation.store(generation, Ordering::Relaxed);
    for (entry, from) in table.entries.iter().zip(before.entries) {
        entry.copy(from);
    }
    // The sums go to the first row, which is nobody's.
    let (_, totals) = before.totals();
    for (cells, totals) in table.row(0).iter().zip(&totals) {
        cells.copy(totals);
        cells.forget_gauges();
    }
    table.rows[0].used.store(1, Ordering::Release);
}

/// Finds a place for every guest of a configuration.
fn give_places(table: Table, meters: &Meters) {
    let oldest = table.oldest();
    let generation = table.header.generation.fetch_add(1, Ordering::Relaxed) + 1;
    let guests: HashMap<_, _> = meters.iter().collect();
    let mut guests: Vec<(&Identity, &Rc<Meter>)> = guests.into_iter().collect();
    guests.sort_by_key(|(identity, _)| **identity);
    // Those that have one first, so that nobody else gets it.
    guests.sort_by_key(|(identity, _)| !directory::knows(table.entries, identity));
    for (identity, meter) in guests {
        let Some((at, new)) = directory::place(table.entries, identity, generation, oldest) else {
            // `add` has made room for all; a guest without is not counted.
            continue;
        };
        if new {
            table.used_rows().for_each(|(row, _)| table.row(row)[at].clear());
        }
        meter.place.set(Some(Place { table, at, generation }));
    }
}

/// The figures of a cycle's guests.
///
/// # Safety
/// `cycle` is a live one of nginx's.
unsafe fn meters<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Meters> {
    // SAFETY: the http module's slot is null or its ngx_http_conf_ctx_t, which has a slot for every
    // http module; ours is what create_main_conf returned, a record that begins with the Meters.
    unsafe {
        let http = *(*cycle).conf_ctx.add(nginx_sys::ngx_http_module.index);
        let http = http.cast::<ngx_http_conf_ctx_t>().as_ref()?;
        (*http.main_conf.add(module::ctx_index())).cast::<Meters>().as_ref()
    }
}

/// A process is about to serve requests: it takes its row, so that nobody else is given places it writes
/// to.
///
/// # Safety
/// `cycle` is a live one of nginx's.
pub(crate) unsafe fn take_row(cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller holds that the cycle is alive.
    if let Some(meters) = unsafe { meters(cycle) } {
        meters.iter().for_each(|(_, meter)| {
            meter.attach();
        });
    }
}

/// A process that serves ends: what it has now is gone, what it counted stays.
///
/// # Safety
/// `cycle` is a live one of nginx's.
pub(crate) unsafe fn release(cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller holds that the cycle is alive.
    if let Some(meters) = unsafe { meters(cycle) } {
        // Instances go later, with the configuration.
        meters.iter().for_each(|(_, meter)| meter.detach());
    }
    if let Some(Claim { table, row: Some(row) }) = CLAIM.take() {
        table.row(row).iter().for_each(Cells::forget_gauges);
        table.rows[row].pid.store(0, Ordering::Release);
    }
}
