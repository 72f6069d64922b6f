//! Which devices a container may make and open, as a cgroup v2 device program (eBPF), assembled by hand.
//!
//! The kernel calls it with `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where the low half of
//! access_type is 1 = block, 2 = char, and the high half has bits mknod 1, read 2, write 4. 1 = allow, 0 = refuse.

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub const BPF_PROG_TYPE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
pub const BPF_ATTACH_TYPE: u32 = 6;

/// A rule that allows char devices.
struct Allowed {
    major: u32,
    /// `None` = all.
    minor: Option<u32>,
}

// What the OCI spec calls the default devices, and terminals.
const ALLOWED: [Allowed; 9] = [
    Allowed { major: 1, minor: Some(3) }, // null
    Allowed { major: 1, minor: Some(5) }, // zero
    Allowed { major: 1, minor: Some(7) }, // full
    Allowed { major: 1, minor: Some(8) }, // random
    Allowed { major: 1, minor: Some(9) }, // urandom
    Allowed { major: 5, minor: Some(0) }, // tty
    Allowed { major: 5, minor: Some(1) }, // console
    Allowed { major: 5, minor: Some(2) }, // ptmx
    Allowed { major: 136, minor: None },  // pts/*
];

// struct bpf_insn { u8 code; u8 dst:4, src:4; s16 off; s32 imm; }
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(off as u16) << 16
        | u64::from(imm as u32) << 32
}

/// Allows making any node (without opening it: harmless, and package managers do), and opening the default devices.
pub fn default_program() -> Vec<u64> {
    let load = |dst, off| insn(0x61, dst, 1, off, 0); // ldxw dst = *(u32 *)(ctx + off)
    let exit = |value| [insn(0xb7, 0, 0, 0, value), insn(0x95, 0, 0, 0, 0)];
    let mut p = vec![
        load(2, 0),
        load(4, 4),
        load(5, 8),
        insn(0xbf, 3, 2, 0, 0),      // r3 = r2
        insn(0x77, 3, 0, 0, 16),     // r3 >>= 16
        insn(0x57, 2, 0, 0, 0xffff), // r2 &= 0xffff
        insn(0x55, 3, 0, 2, 1),      // if r3 != mknod alone skip 2
    ];
    p.extend(exit(1));
    p.push(insn(0x15, 2, 0, 2, 2)); // if char skip 2
    p.extend(exit(0));
    for a in &ALLOWED {
        match a.minor {
            Some(minor) => {
                p.push(insn(0x55, 4, 0, 3, a.major as i32));
                p.push(insn(0x55, 5, 0, 2, minor as i32));
            }
            None => p.push(insn(0x55, 4, 0, 2, a.major as i32)),
        }
        p.extend(exit(1));
    }
    p.extend(exit(0));
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    // A small interpreter of what the program uses, so that its meaning is tested and not its bytes.
    fn allows(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = default_program();
        let ctx = [kind | access << 16, major, minor];
        let (mut r, mut pc) = ([0u64; 11], 0usize);
        loop {
            let i = program[pc];
            pc += 1;
            let (dst, src) = ((i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (off, imm) = ((i >> 16) as u16 as i16, (i >> 32) as u32 as u64);
            match i as u8 {
                0x61 => {
                    assert_eq!(src, 1);
                    r[dst] = u64::from(ctx[off as usize / 4]);
                }
                0xbf => r[dst] = r[src],
                0x77 => r[dst] >>= imm,
                0x57 => r[dst] &= imm,
                0xb7 => r[dst] = imm,
                0x15 if r[dst] == imm => pc += off as usize,
                0x55 if r[dst] != imm => pc += off as usize,
                0x15 | 0x55 => {}
                0x95 => return r[0] == 1,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn default_devices_and_no_others() {
        assert!(allows(2, 2 | 4, 1, 3));
        assert!(allows(2, 2, 1, 9));
        assert!(allows(2, 6, 136, 77));
        assert!(allows(2, 6, 5, 2));
        assert!(!allows(2, 2, 1, 1), "mem");
        assert!(!allows(1, 2, 1, 3), "block device with null's numbers");
        assert!(!allows(1, 2, 254, 0), "disk");
        assert!(allows(1, 1, 254, 0), "making a node is allowed, opening it is not");
    }
}
