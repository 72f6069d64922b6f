//! Installing a compiled seccomp filter. Compiling is `crate::seccomp`'s business.
#![allow(unsafe_code)]

use rustix::io::Errno;

/// A classic BPF program in the kernel's layout, ready to install.
#[derive(Clone)]
pub struct Filter(Vec<libc::sock_filter>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} instructions)", self.0.len())
    }
}

/// Most instructions that the kernel takes in one filter (BPF_MAXINSNS).
pub const INSTRUCTIONS_MAX: usize = 4096;

impl Filter {
    /// From instructions packed as `code << 48 | jt << 40 | jf << 32 | k`; `None` when there are too many.
    pub fn unpack(packed: &[u64]) -> Option<Filter> {
        (packed.len() <= INSTRUCTIONS_MAX).then(|| {
            Filter(
                packed
                    .iter()
                    .map(|i| libc::sock_filter {
                        code: (i >> 48) as u16,
                        jt: (i >> 40) as u8,
                        jf: (i >> 32) as u8,
                        k: *i as u32,
                    })
                    .collect(),
            )
        })
    }

    /// seccomp(SECCOMP_SET_MODE_FILTER) on the calling thread. Allocates nothing.
    pub fn install(&self) -> Result<(), Errno> {
        let program =
            libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel reads `len` instructions from `filter`, which is what the vector holds; it writes nothing.
        let r = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
        };
        if r < 0 {
            // SAFETY: errno is a thread-local integer of libc.
            return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
        }
        Ok(())
    }
}
