//! Whose rights guests have: those of the user that workers run as, also in the process that starts
//! them while the configuration is read by a master that may be root.

use std::ffi::{CStr, CString};
use std::io;

use nginx_sys::{NGX_GROUP, NGX_USER, ngx_conf_t, ngx_core_conf_t};
use rustix::process::geteuid;

/// What nginx calls not set.
const UNSET: u32 = u32::MAX;

/// A user that root becomes.
pub(crate) struct Rights {
    name: CString,
    user: libc::uid_t,
    group: libc::gid_t,
}

impl Rights {
    /// What the workers of this configuration change to; `None` when they stay what the master is.
    ///
    /// # Safety
    /// `cf` is valid for one callback of nginx's.
    pub(crate) unsafe fn of_workers(cf: *mut ngx_conf_t) -> Result<Option<Self>, String> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        // SAFETY: the cycle has the configuration of every core module from before the first file
        // is read, and that of ngx_core_module is an ngx_core_conf_t.
        let core = unsafe {
            let index = nginx_sys::ngx_core_module.index;
            &*(*(*(*cf).cycle).conf_ctx.add(index)).cast::<ngx_core_conf_t>()
        };
        // With "master_process off" nobody changes anything.
        if core.master == 0 {
            return Ok(None);
        }
        if core.user != UNSET {
            // SAFETY: the directive "user" sets all three, the name to a string.
            let name = unsafe { CStr::from_ptr(core.username) }.to_owned();
            return Ok(Some(Rights { name, user: core.user, group: core.group }));
        }
        // nginx decides so when it has read everything.
        Self::built_in().map(Some)
    }

    /// The user and group that nginx was configured with when it was built.
    fn built_in() -> Result<Self, String> {
        let unknown =
            |what, name: &CStr| format!("there is no {what} \"{}\"", name.to_string_lossy());
        // SAFETY: a string; the result is read before anybody calls the function again.
        let user = unsafe { libc::getpwnam(NGX_USER.as_ptr()).as_ref() };
        let user = user.ok_or_else(|| unknown("user", NGX_USER))?.pw_uid;
        // SAFETY: as above.
        let group = unsafe { libc::getgrnam(NGX_GROUP.as_ptr()).as_ref() };
        let group = group.ok_or_else(|| unknown("group", NGX_GROUP))?.gr_gid;
        Ok(Rights { name: NGX_USER.to_owned(), user, group })
    }

    /// Makes this process that user's, in the order and with the calls of nginx's workers.
    pub(crate) fn assume(&self) -> io::Result<()> {
        // SAFETY: numbers, and a string that lives through the call.
        unsafe {
            done(libc::setgid(self.group))?;
            done(libc::initgroups(self.name.as_ptr(), self.group))?;
            done(libc::setuid(self.user))
        }
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
